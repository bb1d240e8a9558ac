// What every part of the page uses: elements, pictures, questions to the server, messages.

export const at = (id) => document.getElementById(id);
export const narrow = matchMedia("(max-width: 860px)");

// `model` is what /api/model said, `state` what the address says; `go(changes)` changes the address.
export const page = { model: null, state: null, go: null };

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export const percent = (share) => `${Math.round(100 * share)} %`;
export const counted = (number, one) => `${number.toLocaleString("en")} ${one}${number === 1 ? "" : "s"}`;

export function address(kind, number) {
  const coloured = page.state.colours && ["pictures", "sheets", "sprites"].includes(kind);
  return `/${kind}/${number}.png?v=${page.model.mark}${coloured ? "&colours=1" : ""}`;
}

export function image(source, alt, className = "") {
  const { width, height } = page.model;
  return make("img", { src: source, alt, className, width, height, loading: "lazy" });
}

// Ask the server; one that is still making its answer is asked again.
export async function ask(path, options, waiting = () => {}) {
  for (;;) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new Error("The server does not answer: is nmfcore serve still running?");
    }
    const body = await response.json().catch(() => ({}));
    if (response.status === 202) {
      waiting();
      await new Promise((later) => setTimeout(later, 500));
      continue;
    }
    if (response.ok) return body;
    const said = body.error ?? `The server answered ${response.status}`;
    const error = new Error(said[0].toUpperCase() + said.slice(1));
    error.status = response.status;
    throw error;
  }
}

const titles = new Map(); // sheet → promise of its pictures' names

export function titlesOf(sheet) {
  if (!titles.has(sheet)) {
    const promise = ask(`/api/titles/${sheet}?v=${page.model.mark}`);
    promise.catch(() => titles.delete(sheet));
    titles.set(sheet, promise);
  }
  return titles.get(sheet);
}

let hiding;
export function say(text) {
  clearTimeout(hiding);
  at("message").textContent = text;
  at("message").hidden = !text;
  if (text) hiding = setTimeout(() => { at("message").hidden = true; }, 8000);
}
