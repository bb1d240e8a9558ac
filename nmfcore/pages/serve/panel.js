// Beside the wall: what is similar to some pictures, what a part makes most of, what lies inside a line on the map.

import { NOTHING, TABS } from "./address.js";
import { address, ask, at, counted, image, make, narrow, page, percent, say } from "./basics.js";
import { roving, select, tabs } from "./keys.js";

const panel = at("panel");

let asked = 0; // number of the last question: answers to older ones are dropped
let shown = null; // what the panel shows, as a text
let choosing = () => {}; // opens the dialog for files that are added to the query

export const begin = (chooseFiles) => { choosing = chooseFiles; };
export const isOpen = () => !panel.hidden;

// What a state says about the panel: a text, empty where it is closed.
function key(state) {
  const { plus, minus, part, cluster, of, area, tab, n, label, colours } = state;
  const closed = !plus.length && !minus.length && part === null && cluster === null && area === null;
  return closed ? "" : JSON.stringify([plus, minus, part, cluster, of, area, tab, n, label, colours]);
}

// Show what the address says; `areaRows` tells which rows lie inside a line on the map. Return whether the panel opened or
// closed.
export async function show(state, areaRows) {
  const wanted = key(state);
  if (wanted === shown) return false;
  const question = ++asked;
  if (!wanted) return close();
  try {
    const content = await contentOf(state, areaRows);
    if (question !== asked) return false;
    shown = wanted;
    return fill(content);
  } catch (error) {
    if (question !== asked) return false;
    say(error.message);
    return error.status && shown === null ? close() : false;
  }
}

function close() {
  shown = null;
  if (panel.hidden) return false;
  panel.hidden = true;
  panel.replaceChildren();
  return true;
}

function fill(content) {
  const was = panel.hidden;
  const focus = panel.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const inside = panel.contains(document.activeElement);
  panel.replaceChildren(...content.filter((child) => child !== null));
  panel.hidden = false;
  const again = focus && panel.querySelector(`[data-key="${focus}"]`);
  if (again) again.focus({ preventScroll: true });
  else {
    panel.scrollTop = 0;
    if (was || inside || document.activeElement === document.body || narrow.matches) panel.focus({ preventScroll: true });
  }
  return was;
}

function contentOf(state, areaRows) {
  if (state.plus.length || state.minus.length) return searchContent(state);
  if (state.part !== null) return partContent(state);
  if (state.cluster !== null) return clusterContent(state);
  return areaContent(state, areaRows);
}

function parameters(state, given) {
  const all = { ...given, n: state.n ?? page.model.few };
  if (state.label !== null) all.label = state.label;
  return new URLSearchParams(all).toString();
}

// --- what there is to show ------------------------------------------------------------------------

async function searchContent(state) {
  const path = (more) => `/api/search?${parameters(state, {
    plus: state.plus.join(","), minus: state.minus.join(","), kind: state.tab, ...more,
  })}`;
  const told = await ask(path({}));
  const { query } = told;
  const [one] = query.terms;
  const single = query.terms.length === 1 && !one.minus;
  const list = make("div", { id: "found", role: "tabpanel", tabIndex: -1, "aria-labelledby": `kind-${state.tab}` },
    results(told.found), more(state, told, path), empty(told.found));
  return [
    head(single ? one.title : counted(query.terms.length, "picture") + " as one question"),
    single ? pair(one, query) : terms(query.terms),
    make("div", { className: "bar" },
      make("button", { className: "small", type: "button", "data-key": "add", onclick: () => choosing() }, "Add pictures …"),
      make("span", { className: "hint" }, "Below, + adds a picture to the question and − leads away from it.")),
    single ? make("h3", { id: "made" }, "Made mostly of") : null,
    single ? partList(query.parts, "parts", "made") : null,
    kinds(state),
    only(state),
    list,
  ];
}

function pair(one, query) {
  return make("div", { className: "query" },
    figure(one.picture ?? address("pictures", one.row), one.title, "original"),
    figure(query.reconstruction ?? address("reconstructions", one.row), `${one.title}, reconstructed`,
      `from ${counted(page.model.parts, "part")}`));
}

function terms(all) {
  const without = (state, term) => ({
    plus: state.plus.filter((other) => other !== term), minus: state.minus.filter((other) => other !== term), n: null,
  });
  const list = make("ul", { className: "terms", "aria-label": "The pictures of the question" }, ...all.map((one) => {
    const turn = make("button", { className: "small", type: "button", "data-key": `turn-${one.term}` }, one.minus ? "−" : "+");
    turn.setAttribute("aria-label", one.minus ? `add ${one.title} instead` : `lead away from ${one.title} instead`);
    turn.addEventListener("click", () => {
      const rest = without(page.state, one.term);
      const side = one.minus ? "plus" : "minus";
      page.go({ ...rest, [side]: [...rest[side], one.term] });
    });
    const leave = make("button", { className: "small", type: "button", "aria-label": `leave out ${one.title}` }, "×");
    leave.addEventListener("click", () => page.go(without(page.state, one.term)));
    return make("li", { className: one.minus ? "minus" : "plus" },
      figure(one.picture ?? address("pictures", one.row), "", one.title),
      make("div", { className: "buttons" }, turn, leave));
  }));
  return roving(list);
}

function kinds(state) {
  const names = { similar: "Most similar", dissimilar: "Most dissimilar" };
  const list = make("div", { className: "tabs", role: "tablist", "aria-label": "Kinds of results" }, ...TABS.map((kind) => {
    const tab = make("button", {
      id: `kind-${kind}`, type: "button", role: "tab", "aria-controls": "found", "data-key": `kind-${kind}`,
    }, names[kind]);
    tab.dataset.kind = kind;
    select(tab, kind === state.tab);
    return tab;
  }));
  return tabs(list, (tab) => page.go({ tab: tab.dataset.kind, n: null }));
}

const only = (state) => (state.label === null ? null : make("p", { className: "hint" }, `only those labelled ${state.label}`));
const empty = (found) => (found.length ? null : make("p", { className: "none" }, "no picture"));

async function partContent(state) {
  const path = (given) => `/api/parts/${state.part}?${parameters(state, given ?? {})}`;
  const told = await ask(path());
  return [
    head(`Part ${state.part}`),
    make("div", { className: "query" }, figure(address("parts", state.part), `part ${state.part}`, "the part")),
    make("h3", {}, "Pictures made mostly of it"),
    make("p", { className: "hint" },
      told.half ? `It makes half of the brightness, or more, of ${counted(told.half, "picture")}. The largest share comes first.`
        : "It makes half of the brightness of no picture; the largest share comes first."),
    only(state),
    results(told.found, percent), more(state, told, path), empty(told.found),
  ];
}

async function clusterContent(state) {
  const path = (given) => `/api/clusters/${state.cluster}?${parameters(state, { of: state.of, ...given })}`;
  const told = await ask(path());
  return [
    head(`Cluster ${state.cluster + 1} of ${state.of}`),
    make("p", { className: "hint" }, `${counted(told.count, "picture")}, those nearest the centre first`),
    only(state),
    results(told.found), more(state, told, path), empty(told.found),
  ];
}

async function areaContent(state, areaRows) {
  const rows = await areaRows(state);
  const named = async (from, n) => {
    const some = rows.slice(from, from + n);
    const found = some.length ? await ask(`/api/rows?rows=${some.join(",")}`) : [];
    return { found: found.map((one) => ({ ...one, score: null, parts: [] })), more: from + n < rows.length };
  };
  const told = await named(0, state.n ?? page.model.few);
  return [
    head(`${counted(rows.length, "picture")} on the map`),
    only(state),
    results(told.found), more(state, told, null, named), empty(told.found),
  ];
}

// --- pieces ---------------------------------------------------------------------------------------

function head(title) {
  const button = make("button", { className: "close", type: "button", title: "Close", "aria-label": "Close" }, "×");
  button.addEventListener("click", () => page.go(NOTHING));
  return make("div", { className: "head" }, make("h2", {}, title), button);
}

function figure(source, alt, caption) {
  return make("figure", {}, image(source, alt), make("figcaption", {}, caption));
}

function partList(parts, className, labelled = null) {
  if (!parts.length) return make("p", { className: "none" }, "no part");
  const list = make("ul", { className }, ...parts.map(([part, share]) => {
    const said = `part ${part}, ${percent(share)}`;
    return make("li", {}, make("a", { href: `#part=${part}`, title: said, "aria-label": said, onclick: stay({ part }) },
      make("figure", {}, image(address("parts", part), ""), make("figcaption", { "aria-hidden": "true" }, percent(share)))));
  }));
  if (labelled) list.setAttribute("aria-labelledby", labelled);
  return labelled ? roving(list) : list;
}

// A link goes to what it shows and keeps the view and the label; opened in a new tab it shows the same alone.
function stay(changes) {
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    page.go({ ...NOTHING, ...changes });
  };
}

const cosine = (number) => number.toFixed(2);

export function results(found, score = cosine) {
  const list = make("ul", { className: "results", "aria-label": "Pictures" });
  append(list, found, score);
  list.dataset.score = score === percent ? "percent" : "";
  return list;
}

function append(list, found, score) {
  list.append(...found.map((one) => result(one, score)));
  roving(list);
}

function result(one, score) {
  const bar = make("i");
  bar.style.width = `${100 * Math.max(0, one.score)}%`;
  const picture = make("a", { href: `#${one.row}`, title: one.title, onclick: stay({ plus: [String(one.row)] }) },
    image(address("pictures", one.row), one.title, "picture"));
  return make("li", {},
    picture,
    make("div", { className: "caption" },
      one.score === null ? null : make("b", {}, score(one.score)),
      make("span", { className: "buttons" }, adder(one, "plus"), adder(one, "minus"))),
    one.score === null ? null : make("div", { className: "score" }, bar),
    make("div", { className: "name", title: one.title }, one.title),
    one.parts.length ? partList(one.parts, "why") : null);
}

function adder(one, side) {
  const said = side === "plus" ? `add ${one.title} to the question` : `lead away from ${one.title}`;
  const button = make("button", { className: "small", type: "button", title: said, "aria-label": said }, side === "plus" ? "+" : "−");
  button.addEventListener("click", () => {
    const { plus, minus } = page.state;
    const term = String(one.row);
    const rest = { plus: plus.filter((other) => other !== term), minus: minus.filter((other) => other !== term) };
    page.go({ ...NOTHING, tab: page.state.tab, ...rest, [side]: [...rest[side], term] });
  });
  return button;
}

// A button that brings more of a list, without asking again for what is there.
function more(state, told, path, named) {
  if (!told.more || (state.n ?? page.model.few) >= page.model.most) return null;
  const button = make("button", { className: "small more", type: "button" }, "More");
  button.addEventListener("click", async () => {
    const list = panel.querySelector(".results");
    const here = list.children.length;
    const n = Math.min(page.model.few, page.model.most - here);
    button.disabled = true;
    try {
      const next = named ? await named(here, n) : await ask(withNumbers(path(), n, here));
      if (!list.isConnected) return;
      append(list, next.found, list.dataset.score ? percent : cosine);
      const total = list.children.length;
      const state = { ...page.state, n: total };
      shown = key(state);
      page.go({ n: total }, true);
      list.children[here]?.querySelector("a").focus();
      button.disabled = false;
      if (!next.more || total >= page.model.most) button.remove();
    } catch (error) {
      button.disabled = false;
      say(error.message);
    }
  });
  return button;
}

function withNumbers(path, n, offset) {
  const [place, query] = path.split("?");
  const given = new URLSearchParams(query);
  given.set("n", n);
  given.set("offset", offset);
  return `${place}?${given}`;
}
