// The search page. Only pictures in view have an element; what a click asks for comes from /api as JSON.

const TILE = 76; // CSS pixels, about
const GAP = 4;
const AHEAD = 4; // lines drawn above and below what is in view

const at = (id) => document.getElementById(id);
const wall = at("wall"), tiles = at("tiles"), panel = at("panel"), message = at("message");
const narrow = matchMedia("(max-width: 860px)");

let model; // what /api/model said
let grid; // how the wall is laid out
let chosen = null; // row of the open picture
let asked = 0; // number of the last question: answers to older ones are dropped

const drawn = new Map(); // row → its element
const titles = new Map(); // sheet → promise of its pictures' names

// --- small things ---------------------------------------------------------------------------------

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const address = (kind, number) => `/${kind}/${number}.png?v=${model.mark}`;
const percent = (share) => `${Math.round(100 * share)} %`;

function image(source, alt, className = "") {
  return make("img", { src: source, alt, className, width: model.width, height: model.height });
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: is nmfcore serve still running?");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const said = body.error ?? `The server answered ${response.status}`;
    throw new Error(said[0].toUpperCase() + said.slice(1));
  }
  return body;
}

let hiding;
function say(text) {
  clearTimeout(hiding);
  message.textContent = text;
  message.hidden = !text;
  if (text) hiding = setTimeout(() => { message.hidden = true; }, 8000);
}

// --- the wall -------------------------------------------------------------------------------------

function layOut() {
  const style = getComputedStyle(wall);
  const room = wall.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  if (room === grid?.room) {
    draw();
    return;
  }
  const first = grid ? Math.round(wall.scrollTop / grid.line) * grid.columns : 0;
  const columns = Math.max(3, Math.floor((room + GAP) / (TILE + GAP)));
  const width = (room - GAP * (columns - 1)) / columns;
  const height = width * model.height / model.width;
  grid = { room, columns, width, height, line: height + GAP, lines: Math.ceil(model.rows / columns) };
  tiles.style.height = `${grid.lines * grid.line - GAP}px`;
  for (const element of drawn.values()) element.remove();
  drawn.clear();
  wall.scrollTop = Math.floor(first / columns) * grid.line; // what was in view stays there
  draw();
}

function draw() {
  const from = Math.max(0, Math.floor(wall.scrollTop / grid.line) - AHEAD);
  const to = Math.ceil((wall.scrollTop + wall.clientHeight) / grid.line) + AHEAD;
  const first = from * grid.columns;
  const last = Math.min(model.rows, to * grid.columns);
  for (const [row, element] of drawn) {
    if ((row < first || row >= last) && element !== document.activeElement) {
      element.remove();
      drawn.delete(row);
    }
  }
  const fresh = document.createDocumentFragment();
  for (let row = first; row < last; row++) {
    if (!drawn.has(row)) {
      const element = tile(row);
      drawn.set(row, element);
      fresh.append(element);
    }
  }
  tiles.append(fresh);
}

function tile(row) {
  const sheet = Math.floor(row / model.perSheet);
  const place = row % model.perSheet;
  const lines = Math.ceil(Math.min(model.perSheet, model.rows - sheet * model.perSheet) / model.columns);
  const share = (number, all) => (all > 1 ? 100 * number / (all - 1) : 0);
  const element = make("button", { className: "tile", type: "button" });
  element.dataset.row = row;
  element.setAttribute("aria-label", `picture ${row}`);
  if (row === chosen) element.setAttribute("aria-current", "true");
  const [line, column] = [Math.floor(row / grid.columns), row % grid.columns];
  Object.assign(element.style, {
    width: `${grid.width}px`,
    height: `${grid.height}px`,
    transform: `translate(${column * (grid.width + GAP)}px, ${line * grid.line}px)`,
    backgroundImage: `url("${address("sheets", sheet)}")`,
    backgroundSize: `${100 * model.columns}% ${100 * lines}%`,
    backgroundPosition:
      `${share(place % model.columns, model.columns)}% ${share(Math.floor(place / model.columns), lines)}%`,
  });
  named(sheet).then((names) => {
    element.title = names[place];
    element.setAttribute("aria-label", names[place]);
  }, () => {});
  return element;
}

function named(sheet) {
  if (!titles.has(sheet)) {
    const promise = ask(`/api/titles/${sheet}?v=${model.mark}`);
    promise.catch(() => titles.delete(sheet));
    titles.set(sheet, promise);
  }
  return titles.get(sheet);
}

function mark(row) {
  drawn.get(chosen)?.removeAttribute("aria-current");
  chosen = row;
  drawn.get(chosen)?.setAttribute("aria-current", "true");
}

function show(row) {
  const top = Math.floor(row / grid.columns) * grid.line;
  if (top < wall.scrollTop || top + grid.height > wall.scrollTop + wall.clientHeight) {
    wall.scrollTop = top - (wall.clientHeight - grid.height) / 2;
  }
  draw();
}

wall.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });

tiles.addEventListener("click", (event) => {
  const row = event.target.dataset.row;
  if (row !== undefined) open(Number(row));
});

tiles.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns };
  const row = Number(event.target.dataset.row) + steps[event.key];
  if (!(row >= 0 && row < model.rows)) return;
  event.preventDefault();
  show(row);
  drawn.get(row).focus({ preventScroll: true });
});

// --- the neighbours of one picture ----------------------------------------------------------------

function open(row) {
  if (location.hash === `#${row}`) search(row);
  else location.hash = String(row); // goes on in hashchange, so that back and forward work
}

async function search(row) {
  mark(row);
  await answer(ask(`/api/neighbours/${row}`), row);
}

async function upload(file) {
  if (!file) return;
  if (file.size > model.limit) {
    say(`The picture is larger than ${model.limit / 2 ** 20} MB: choose a smaller one`);
    return;
  }
  history.replaceState(null, "", location.pathname);
  mark(null);
  const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
  await answer(ask("/api/neighbours", options), null);
}

async function answer(promise, row) {
  const question = ++asked;
  try {
    const found = await promise;
    if (question !== asked) return;
    say("");
    fill(found);
    if (row !== null && !narrow.matches) show(row);
  } catch (error) {
    if (question === asked) say(error.message);
  }
}

function fill({ query, similar, dissimilar }) {
  const was = panel.hidden;
  const label = query.label === null ? null : make("small", {}, ` ${query.label}`);
  const number = query.row === null ? null : make("small", {}, ` row ${query.row}`);
  const close = make("button", { className: "close", type: "button", title: "Close" }, "×");
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", shut);
  const own = query.title === `row ${query.row}`;
  panel.replaceChildren(
    make("div", { className: "head" }, make("h2", {}, query.title, own ? null : number, label), close),
    make("div", { className: "query" },
      figure(query.picture ?? address("pictures", query.row), query.title, "original"),
      figure(query.reconstruction ?? address("reconstructions", query.row), `${query.title}, reconstructed`,
        `from ${model.parts} parts`)),
    make("h3", {}, "Made mostly of"),
    partList(query.parts, "parts"),
    make("h3", {}, "Most similar"),
    results(similar),
    make("h3", {}, "Most dissimilar"),
    results(dissimilar),
  );
  panel.hidden = false;
  panel.scrollTop = 0;
  if (was && !narrow.matches) layOut(); // the wall has become narrower
  panel.focus({ preventScroll: true });
}

function figure(source, alt, caption) {
  return make("figure", {}, image(source, alt), make("figcaption", {}, caption));
}

function partList(parts, className) {
  if (!parts.length) return make("p", { className: "none" }, "no part");
  return make("ul", { className }, ...parts.map(([part, share]) => {
    const shown = image(address("parts", part), `part ${part}`);
    return make("li", { title: `part ${part}: ${percent(share)}` },
      make("figure", {}, shown, make("figcaption", {}, percent(share))));
  }));
}

function results(found) {
  return make("ul", { className: "results" }, ...found.map((one) => {
    const bar = make("i");
    bar.style.width = `${100 * Math.max(0, one.score)}%`;
    const name = one.label === null ? one.title : `${one.label} · ${one.title}`;
    return make("li", {},
      make("a", { href: `#${one.row}`, title: one.title },
        image(address("pictures", one.row), one.title, "picture"),
        make("div", { className: "caption" }, make("b", {}, one.score.toFixed(2)), make("span", {}, name)),
        make("div", { className: "score" }, bar)),
      one.parts.length ? partList(one.parts, "why") : null);
  }));
}

function shut() {
  const row = chosen;
  asked++;
  mark(null);
  panel.hidden = true;
  panel.replaceChildren();
  history.replaceState(null, "", location.pathname);
  layOut();
  if (row !== null) {
    show(row);
    drawn.get(row)?.focus({ preventScroll: true });
  }
}

// --- what people do -------------------------------------------------------------------------------

at("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text) return;
  try {
    const found = await ask(`/api/find?text=${encodeURIComponent(text)}`);
    if (!found.length) {
      say(`There is no picture called “${text}”, and no row of that number`);
      return;
    }
    show(found[0].row);
    open(found[0].row);
  } catch (error) {
    say(error.message);
  }
});

at("file").addEventListener("change", (event) => {
  upload(event.target.files[0]);
  event.target.value = ""; // so that the same file may be chosen again
});

addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  upload(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => upload([...event.clipboardData.files][0]));

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !panel.hidden) shut();
});
addEventListener("hashchange", fromAddress);

function fromAddress() {
  const row = /^#\d{1,12}$/.test(location.hash) ? Number(location.hash.slice(1)) : null;
  if (row !== null && row < model.rows) search(row);
  else if (!panel.hidden && location.hash === "" && chosen !== null) shut();
}

// --- begin ----------------------------------------------------------------------------------------

try {
  model = await ask("/api/model");
  document.title = `${model.title} · nmfcore`;
  at("title").textContent = model.title;
  const error = model.error === null ? "" : ` · relative error ${model.error.toFixed(3)}`;
  at("facts").textContent = `${model.rows.toLocaleString("en")} pictures · ${model.parts} parts${error}`;
  document.body.classList.toggle("pixels", model.pixels);
  layOut();
  new ResizeObserver(() => requestAnimationFrame(layOut)).observe(wall);
  fromAddress();
} catch (error) {
  at("facts").textContent = "";
  say(error.message);
}
