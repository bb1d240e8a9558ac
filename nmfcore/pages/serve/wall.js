// The wall: all pictures, or those of one label. Only pictures in view have an element.

import { address, at, page, titlesOf } from "./basics.js";

const TILE = 76; // CSS pixels, about
const GAP = 4;
const AHEAD = 4; // lines drawn above and below what is in view

const wall = at("wall"), tiles = at("tiles");
const drawn = new Map(); // place → its element

let grid = null; // how the wall is laid out
let rows = null; // the rows that are shown, in order; null for all
let chosen = new Set(); // rows that are searched by
let stop = 0; // the place that the Tab key stops at

const count = () => rows?.length ?? page.model.rows;
const rowAt = (place) => (rows ? rows[place] : place);
const placeOf = (row) => (rows ? rows.indexOf(row) : row);

export function begin(open) {
  wall.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  tiles.addEventListener("click", (event) => {
    const row = event.target.dataset.row;
    if (row !== undefined) open(Number(row));
  });
  tiles.addEventListener("focusin", (event) => stopAt(Number(event.target.dataset.place)));
  tiles.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const here = Number(event.target.dataset.place);
    const page = grid.columns * Math.max(1, Math.floor(wall.clientHeight / grid.line));
    const to = {
      ArrowLeft: here - 1,
      ArrowRight: here + 1,
      ArrowUp: here - grid.columns,
      ArrowDown: here + grid.columns,
      PageUp: Math.max(here - page, here % grid.columns),
      PageDown: Math.min(here + page, count() - 1),
      Home: 0,
      End: count() - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to < count()) focusPlace(to);
  });
  new ResizeObserver(() => requestAnimationFrame(layOut)).observe(wall);
}

// Show these rows, null for all.
export function only(some) {
  rows = some;
  stop = 0;
  grid = null;
  wall.scrollTop = 0;
  layOut();
}

// Draw the pictures anew, as when their colours change.
export function redraw() {
  clear();
  layOut();
}

export function layOut() {
  if (wall.hidden) return;
  const style = getComputedStyle(wall);
  const room = wall.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  if (room === grid?.room) {
    draw();
    return;
  }
  const first = grid ? Math.round(wall.scrollTop / grid.line) * grid.columns : 0;
  const columns = Math.max(3, Math.floor((room + GAP) / (TILE + GAP)));
  const width = (room - GAP * (columns - 1)) / columns;
  const height = width * page.model.height / page.model.width;
  grid = { room, columns, width, height, line: height + GAP, lines: Math.ceil(count() / columns) };
  tiles.style.height = `${grid.lines * grid.line - GAP}px`;
  clear();
  wall.scrollTop = Math.floor(first / columns) * grid.line; // what was in view stays there
  draw();
}

function clear() {
  for (const element of drawn.values()) element.remove();
  drawn.clear();
}

function draw() {
  if (wall.hidden || !grid) return;
  const from = Math.max(0, Math.floor(wall.scrollTop / grid.line) - AHEAD);
  const to = Math.ceil((wall.scrollTop + wall.clientHeight) / grid.line) + AHEAD;
  const first = from * grid.columns;
  const last = Math.min(count(), to * grid.columns);
  for (const [place, element] of drawn) {
    if ((place < first || place >= last) && element !== document.activeElement) {
      element.remove();
      drawn.delete(place);
    }
  }
  const fresh = document.createDocumentFragment();
  for (let place = first; place < last; place++) {
    if (!drawn.has(place)) {
      const element = tile(place);
      drawn.set(place, element);
      fresh.append(element);
    }
  }
  tiles.append(fresh);
  // The Tab key must find a tile, whatever is in view.
  if (!drawn.has(stop) && count()) stopAt(Math.min(first + AHEAD * grid.columns, last - 1));
}

function stopAt(place) {
  drawn.get(stop)?.setAttribute("tabindex", "-1");
  stop = place;
  drawn.get(stop)?.setAttribute("tabindex", "0");
}

function tile(place) {
  const { model } = page;
  const row = rowAt(place);
  const sheet = Math.floor(row / model.perSheet);
  const onSheet = row % model.perSheet;
  const lines = Math.ceil(Math.min(model.perSheet, model.rows - sheet * model.perSheet) / model.columns);
  const share = (number, all) => (all > 1 ? 100 * number / (all - 1) : 0);
  const element = document.createElement("button");
  Object.assign(element, { className: "tile", type: "button", tabIndex: place === stop ? 0 : -1 });
  Object.assign(element.dataset, { row, place });
  element.setAttribute("aria-label", `row ${row}`);
  if (chosen.has(row)) element.setAttribute("aria-current", "true");
  const [line, column] = [Math.floor(place / grid.columns), place % grid.columns];
  Object.assign(element.style, {
    width: `${grid.width}px`,
    height: `${grid.height}px`,
    transform: `translate(${column * (grid.width + GAP)}px, ${line * grid.line}px)`,
    backgroundImage: `url("${address("sheets", sheet)}")`,
    backgroundSize: `${100 * model.columns}% ${100 * lines}%`,
    backgroundPosition:
      `${share(onSheet % model.columns, model.columns)}% ${share(Math.floor(onSheet / model.columns), lines)}%`,
  });
  titlesOf(sheet).then((names) => {
    element.title = names[onSheet];
    element.setAttribute("aria-label", names[onSheet]);
  }, () => {});
  return element;
}

// Mark the rows that are searched by.
export function mark(some) {
  chosen = new Set(some);
  for (const element of drawn.values()) {
    if (chosen.has(Number(element.dataset.row))) element.setAttribute("aria-current", "true");
    else element.removeAttribute("aria-current");
  }
}

// Scroll a row into view; false where it is not on the wall.
export function show(row) {
  const place = placeOf(row);
  if (wall.hidden || place < 0 || place >= count()) return false;
  const top = Math.floor(place / grid.columns) * grid.line;
  if (top < wall.scrollTop || top + grid.height > wall.scrollTop + wall.clientHeight) {
    wall.scrollTop = top - (wall.clientHeight - grid.height) / 2;
  }
  draw();
  return true;
}

function focusPlace(place) {
  if (show(rowAt(place))) drawn.get(place)?.focus({ preventScroll: true });
}

export const focus = (row) => focusPlace(placeOf(row));
