// The map: every picture at its place on a canvas, to be moved, zoomed, and listed inside a line.

import { NOTHING } from "./address.js";
import { address, ask, at, make, page, say } from "./basics.js";

const MAP = 4096; // places of the map side by side
const MARGIN = 24; // CSS pixels around the whole map
const LARGE = 40; // CSS pixels of a picture from which it is drawn from its own file, where few are in view
const FEW = 150;
const CORNERS = 60; // of a line

const canvas = at("canvas"), making = at("making");
const pen = canvas.getContext("2d");
const layouts = new Map(); // method → promise of places
const sheets = new Map(); // address → picture, of many rows or of one

let places = null; // x, y of every row
let allowed = null; // which rows are shown fully; null for all
let chosen = [];
let view = null; // { scale, x, y }: CSS pixels to a unit of the map, and the place in the upper left corner
let line = null; // the line that is being drawn, in units of the map
let method = null;

export function begin(open) {
  at("method").append(...page.model.methods.map((name) => new Option({ pca: "PCA", tsne: "t-SNE" }[name], name)));
  at("method").addEventListener("change", (event) => page.go({ method: event.target.value, area: null }));
  at("lasso").addEventListener("click", () => {
    at("lasso").setAttribute("aria-pressed", String(!drawing()));
  });
  at("closer").addEventListener("click", () => zoom(1.5));
  at("farther").addEventListener("click", () => zoom(1 / 1.5));
  at("whole").addEventListener("click", whole);
  at("inview").addEventListener("click", listView);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", keys);
  pointers(open);
  new ResizeObserver(() => requestAnimationFrame(layOut)).observe(at("map"));
}

const drawing = () => at("lasso").getAttribute("aria-pressed") === "true";

function layout(wanted) {
  if (!layouts.has(wanted)) {
    const waiting = () => { making.textContent = "The map is being made; for many pictures this takes minutes …"; };
    const promise = ask(`/api/map?method=${wanted}`, undefined, waiting).then((told) => Uint16Array.from(told));
    promise.catch(() => layouts.delete(wanted));
    layouts.set(wanted, promise);
  }
  return layouts.get(wanted);
}

export async function show(state, rows) {
  chosen = rows;
  at("method").value = state.method;
  try {
    const found = await layout(state.method);
    if (page.state.method !== state.method) return;
    making.textContent = "";
    const fresh = method !== state.method;
    [places, method] = [found, state.method];
    line = page.state.area;
    layOut();
    if (fresh) whole();
    else draw();
  } catch (error) {
    making.textContent = "";
    say(error.message);
  }
}

export function only(rows) {
  allowed = rows && new Set(rows);
  draw();
}

// Return the rows inside the line of the address, those of its label.
export async function rowsInside(state) {
  const found = await layout(state.method);
  making.textContent = "";
  const rows = [];
  for (let row = 0; row < page.model.rows; row++) {
    if (inside(found[2 * row], found[2 * row + 1], state.area) && (!allowed || allowed.has(row))) rows.push(row);
  }
  return rows;
}

function inside(x, y, corners) {
  let within = false;
  for (let at = 0, last = corners.length - 2; at < corners.length; last = at, at += 2) {
    const [ax, ay, bx, by] = [corners[at], corners[at + 1], corners[last], corners[last + 1]];
    if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) within = !within;
  }
  return within;
}

// --- moving ---------------------------------------------------------------------------------------

export function layOut() {
  if (at("map").hidden || !places) return;
  const { clientWidth, clientHeight } = canvas;
  const sharp = devicePixelRatio || 1;
  if (canvas.width !== Math.round(clientWidth * sharp) || canvas.height !== Math.round(clientHeight * sharp)) {
    canvas.width = Math.round(clientWidth * sharp);
    canvas.height = Math.round(clientHeight * sharp);
    if (!view || view.whole) whole();
    else draw();
  }
}

function whole() {
  const room = Math.max(50, Math.min(canvas.clientWidth, canvas.clientHeight) - 2 * MARGIN);
  const scale = room / MAP;
  view = {
    scale, whole: true,
    x: MAP / 2 - canvas.clientWidth / 2 / scale,
    y: MAP / 2 - canvas.clientHeight / 2 / scale,
  };
  draw();
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  if (!view) return;
  const scale = Math.min(20, Math.max(0.02, view.scale * factor));
  view = { scale, x: view.x + x / view.scale - x / scale, y: view.y + y / view.scale - y / scale };
  draw();
}

function move(x, y) {
  if (!view) return;
  view = { scale: view.scale, x: view.x - x / view.scale, y: view.y - y / view.scale };
  draw();
}

function keys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const step = 80;
  const does = {
    ArrowLeft: () => move(step, 0),
    ArrowRight: () => move(-step, 0),
    ArrowUp: () => move(0, step),
    ArrowDown: () => move(0, -step),
    "+": () => zoom(1.5),
    "=": () => zoom(1.5),
    "-": () => zoom(1 / 1.5),
    0: whole,
    Home: whole,
    Enter: listView,
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
}

function listView() {
  if (!view) return;
  const [left, top] = [view.x, view.y];
  const [right, bottom] = [left + canvas.clientWidth / view.scale, top + canvas.clientHeight / view.scale];
  list([left, top, right, top, right, bottom, left, bottom]);
}

function list(corners) {
  page.go({ ...NOTHING, area: corners.map((number) => Math.round(number)) });
}

function pointers(open) {
  const down = new Map(); // fingers, or the mouse
  let moved = false;
  const spread = () => {
    const [a, b] = [...down.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!view) return;
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    moved = down.size > 1;
    if (down.size === 1 && (drawing() || event.shiftKey)) line = [];
    else if (down.size > 1) line = page.state.area;
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = down.get(event.pointerId);
    if (!last) return;
    const [dx, dy] = [event.offsetX - last.x, event.offsetY - last.y];
    if (!moved && Math.hypot(dx, dy) < 4) return;
    moved = true;
    const before = down.size === 2 ? spread() : 0;
    down.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    if (down.size === 2) zoom(spread() / before, event.offsetX, event.offsetY);
    else if (line && line !== page.state.area) {
      line.push(view.x + event.offsetX / view.scale, view.y + event.offsetY / view.scale);
      draw();
    } else move(dx, dy);
  });
  const end = (event) => {
    if (!down.delete(event.pointerId) || down.size) return;
    const own = line && line !== page.state.area ? line : null;
    if (own && own.length >= 6) {
      const every = Math.ceil(own.length / 2 / CORNERS);
      list(own.filter((_, at) => Math.floor(at / 2) % every === 0));
    } else {
      line = page.state.area;
      const row = moved || event.type !== "pointerup" ? null : nearest(event.offsetX, event.offsetY);
      if (row !== null) open(row);
      else draw();
    }
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointermove", (event) => {
    const row = down.size || !view ? null : nearest(event.offsetX, event.offsetY);
    canvas.style.cursor = drawing() ? "crosshair" : row === null ? "grab" : "pointer";
  });
}

function nearest(x, y) {
  const [mapX, mapY] = [view.x + x / view.scale, view.y + y / view.scale];
  let [best, least] = [null, (side() / view.scale) ** 2 / 2];
  for (let row = 0; row < page.model.rows; row++) {
    const away = (places[2 * row] - mapX) ** 2 + (places[2 * row + 1] - mapY) ** 2;
    if (away < least && (!allowed || allowed.has(row))) [best, least] = [row, away];
  }
  return best;
}

// --- drawing --------------------------------------------------------------------------------------

// The longer side of a picture, in CSS pixels: it grows with the zoom, and is smaller where there are many.
function side() {
  const whole = (Math.min(canvas.clientWidth, canvas.clientHeight) - 2 * MARGIN) / MAP;
  const base = Math.min(36, Math.max(8, 900 / Math.sqrt(page.model.rows)));
  return Math.min(160, base * Math.sqrt(view.scale / whole));
}

function picture(source) {
  let found = sheets.get(source);
  if (!found) {
    found = make("img", { src: source });
    found.addEventListener("load", draw);
    sheets.set(source, found);
    if (sheets.size > 600) sheets.delete(sheets.keys().next().value);
  }
  return found.complete && found.naturalWidth ? found : null;
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (places && view && !at("map").hidden) drawNow();
  });
}

function drawNow() {
  const { model } = page;
  const sharp = canvas.width / Math.max(1, canvas.clientWidth);
  pen.setTransform(sharp, 0, 0, sharp, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  pen.imageSmoothingEnabled = !model.pixels;
  const longer = side();
  const scale = longer / Math.max(model.width, model.height);
  const [width, height] = [model.width * scale, model.height * scale];
  const ink = getComputedStyle(document.body);
  const cell = Math.max(3, longer / 4); // what is covered by others is not drawn
  const taken = new Set();
  const seen = [];
  for (const full of [true, false]) {
    if (!full && !allowed) break;
    for (let row = 0; row < model.rows; row++) {
      if (allowed && allowed.has(row) !== full) continue;
      const x = (places[2 * row] - view.x) * view.scale, y = (places[2 * row + 1] - view.y) * view.scale;
      if (x < -width || y < -height || x > canvas.clientWidth + width || y > canvas.clientHeight + height) continue;
      const place = Math.floor(x / cell) * 65536 + Math.floor(y / cell);
      if (taken.has(place) && !chosen.includes(row)) continue;
      taken.add(place);
      seen.push([row, x, y, full]);
    }
  }
  seen.reverse(); // those of the label, and lower rows, lie on top
  const own = longer > LARGE && seen.length <= FEW;
  for (const [row, x, y, full] of seen) {
    pen.globalAlpha = full ? 1 : 0.15;
    const alone = own && full ? picture(address("pictures", row)) : null;
    if (alone) {
      pen.drawImage(alone, x - width / 2, y - height / 2, width, height);
      continue;
    }
    const number = Math.floor(row / model.perSprites);
    const sheet = picture(address("sprites", number));
    if (!sheet) continue;
    const onSheet = row % model.perSprites;
    const lines = Math.ceil(Math.min(model.perSprites, model.rows - number * model.perSprites) / model.sprites);
    const [wide, high] = [sheet.naturalWidth / model.sprites, sheet.naturalHeight / lines];
    pen.drawImage(sheet, (onSheet % model.sprites) * wide, Math.floor(onSheet / model.sprites) * high, wide, high,
      x - width / 2, y - height / 2, width, height);
  }
  pen.globalAlpha = 1;
  pen.lineWidth = 3;
  pen.strokeStyle = ink.getPropertyValue("--chosen");
  for (const row of chosen) {
    const x = (places[2 * row] - view.x) * view.scale, y = (places[2 * row + 1] - view.y) * view.scale;
    pen.strokeRect(x - width / 2 - 2, y - height / 2 - 2, width + 4, height + 4);
  }
  if (line?.length >= 4) {
    pen.lineWidth = 2;
    pen.strokeStyle = ink.getPropertyValue("--accent");
    pen.fillStyle = ink.getPropertyValue("--accent");
    pen.beginPath();
    for (let at = 0; at < line.length; at += 2) {
      pen.lineTo((line[at] - view.x) * view.scale, (line[at + 1] - view.y) * view.scale);
    }
    pen.closePath();
    pen.stroke();
    pen.globalAlpha = 0.12;
    pen.fill();
    pen.globalAlpha = 1;
  }
}
