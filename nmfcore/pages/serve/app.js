// The search page: what the address says is shown; what people do changes the address.

import { NOTHING, VIEWS, read, write } from "./address.js";
import { ask, at, narrow, page, say } from "./basics.js";
import * as groups from "./groups.js";
import { select, tabs } from "./keys.js";
import * as map from "./map.js";
import * as panel from "./panel.js";
import * as wall from "./wall.js";

let adding = false; // whether the files that are chosen join the question

// Change the address, and show what it says then.
page.go = (changes, instead = false) => {
  const hash = write({ ...page.state, ...changes }, page.model);
  if (hash !== location.hash) {
    if (instead) history.replaceState(null, "", hash || location.pathname);
    else history.pushState(null, "", hash || location.pathname);
  }
  return arrive();
};

async function arrive() {
  const before = page.state;
  const state = page.state = read(location.hash, page.model);
  const chosen = [...state.plus, ...state.minus].filter((term) => !term.startsWith("u")).map(Number);
  if (before?.view !== state.view) showView(state.view);
  if (before && before.colours !== state.colours) wall.redraw();
  at("coloured").checked = state.colours;
  at("label").value = state.label === null ? "" : `=${state.label}`;
  if ((before?.label ?? null) !== state.label) await label(state.label);
  wall.mark(chosen);
  if (state.view === "map") map.show(state, chosen);
  if (state.view === "clusters") groups.showClusters(state);
  if (state.view === "duplicates") groups.showDuplicates(state);
  const last = [...(before?.plus ?? []), ...(before?.minus ?? [])].find((term) => !term.startsWith("u"));
  const was = panel.isOpen();
  if (await panel.show(state, map.rowsInside)) resized();
  if (panel.isOpen() && chosen.length === 1 && !narrow.matches) wall.show(chosen[0]);
  if (was && !panel.isOpen()) { // the focus returns to where it came from
    if (state.view === "wall" && last !== undefined) wall.focus(Number(last));
    else if (document.activeElement === document.body) at(`tab-${state.view}`).focus();
  }
}

function resized() {
  wall.layOut();
  map.layOut();
}

function showView(view) {
  for (const name of VIEWS) {
    at(name).hidden = name !== view;
    select(at(`tab-${name}`), name === view);
  }
  wall.layOut();
}

async function label(name) {
  try {
    const rows = name === null ? null : await ask(`/api/labelled?label=${encodeURIComponent(name)}`);
    if (page.state.label !== name) return;
    wall.only(rows);
    map.only(rows);
  } catch (error) {
    say(error.message);
  }
}

const search = (row) => page.go({ ...NOTHING, plus: [String(row)] });

// --- pictures that are sent -----------------------------------------------------------------------

async function upload(files) {
  const joins = adding;
  adding = false;
  if (!files.length) return;
  const marks = [];
  const refused = [];
  for (const file of files.slice(0, 16)) {
    const named = files.length > 1 ? `${file.name}: ` : "";
    if (file.size > page.model.limit) {
      refused.push(`${named}The picture is larger than ${page.model.limit / 2 ** 20} MB: choose a smaller one`);
      continue;
    }
    try {
      const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
      marks.push((await ask("/api/neighbours", options)).token);
    } catch (error) {
      refused.push(named + error.message);
    }
  }
  if (files.length > 16) refused.push(`${files.length} pictures are too many at once: the first 16 were taken`);
  if (marks.length) {
    const kept = joins ? { plus: page.state.plus, minus: page.state.minus } : { plus: [], minus: [] };
    await page.go({ ...NOTHING, ...kept, plus: [...kept.plus, ...marks] });
  }
  say(refused.join(" · ")); // after a refusal everything is as it was
}

at("file").addEventListener("change", (event) => {
  upload([...event.target.files]);
  event.target.value = ""; // so that the same file may be chosen again
});
at("file").addEventListener("cancel", () => { adding = false; });
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
  upload([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => upload([...event.clipboardData.files]));

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
    wall.show(found[0].row);
    await search(found[0].row);
    if (found[0].note) say(found[0].note);
  } catch (error) {
    say(error.message);
  }
});

at("label").addEventListener("change", (event) => {
  const { value } = event.target;
  page.go({ label: value ? value.slice(1) : null, n: null });
});
at("coloured").addEventListener("change", (event) => page.go({ colours: event.target.checked }));
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && panel.isOpen()) page.go(NOTHING);
});

// --- begin ----------------------------------------------------------------------------------------

function introduce(model) {
  document.title = `${model.title} · nmfcore`;
  at("title").textContent = model.title;
  const error = model.error === null ? "" : ` · relative error ${model.error.toFixed(3)}`;
  at("facts").textContent = `${model.rows.toLocaleString("en")} pictures · ${model.parts} parts${error}`;
  document.body.classList.toggle("pixels", model.pixels);
  if (model.labels) {
    at("label").append(new Option("all", ""),
      ...model.labels.map(([name, count]) => new Option(`${name || "none"} (${count.toLocaleString("en")})`, `=${name}`)));
    at("labels").hidden = false;
  }
  at("colours").hidden = !model.colours;
}

try {
  page.model = await ask("/api/model");
  introduce(page.model);
  page.state = null;
  tabs(at("views"), (tab) => page.go({ ...(narrow.matches ? NOTHING : {}), view: tab.dataset.view })); // it would cover the view
  wall.begin(search);
  map.begin(search);
  panel.begin(() => { adding = true; at("file").click(); });
  addEventListener("hashchange", arrive); // links, Back and Forward
  await arrive();
} catch (error) {
  at("facts").textContent = "";
  say(error.message);
}
