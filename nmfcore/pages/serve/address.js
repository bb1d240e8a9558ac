// What is shown, and the part of the address after # that says so: Back and a bookmark return to it.
//
//   #17                          what is similar to row 17
//   #q=17,42&not=3&tab=dissimilar&label=4&n=24&view=map&method=tsne
//   #part=3                      the pictures that part 3 makes most of
//   #cluster=2&of=8              the members of cluster 2 of 8
//   #area=12,40,90,40,50,99      the pictures inside a line on the map

export const VIEWS = ["wall", "map", "clusters", "duplicates"];
export const TABS = ["similar", "dissimilar"];

export const NOTHING = { plus: [], minus: [], part: null, cluster: null, area: null, tab: "similar", n: null };

export function start(model) {
  return { ...NOTHING, view: "wall", method: "pca", of: Math.min(8, model.clusters), label: null, colours: model.smallFiles };
}

// Return the state that an address stands for; what makes no sense in it is left out.
export function read(hash, model) {
  const state = start(model);
  const text = hash.replace(/^#/, "");
  if (/^\d{1,12}$/.test(text)) return { ...state, plus: [text] };
  const given = new URLSearchParams(text.replaceAll("+", "%2B"));
  const terms = (name) => (given.get(name) ?? "").split(",").filter((term) => /^(\d{1,12}|u[0-9a-f]{32})$/.test(term));
  const number = (name, least, most) => {
    const value = given.get(name);
    return /^\d{1,9}$/.test(value ?? "") && value >= least && value <= most ? Number(value) : null;
  };
  const word = (name, allowed, otherwise) => (allowed.includes(given.get(name)) ? given.get(name) : otherwise);
  Object.assign(state, {
    plus: terms("q"),
    minus: terms("not"),
    part: number("part", 0, model.parts - 1),
    of: number("of", 1, model.clusters) ?? state.of,
    tab: word("tab", TABS, "similar"),
    n: number("n", 1, model.most),
    view: word("view", VIEWS, "wall"),
    method: word("method", model.methods, "pca"),
    label: model.labels?.some(([name]) => name === given.get("label")) ? given.get("label") : null,
    colours: model.colours && word("colours", ["0", "1"], model.smallFiles ? "1" : "0") === "1",
  });
  state.cluster = number("cluster", 0, state.of - 1);
  const area = (given.get("area") ?? "").split(",").map(Number);
  if (area.length >= 6 && area.length % 2 === 0 && area.every(Number.isFinite)) state.area = area;
  return state;
}

export function write(state, model) {
  const usual = start(model);
  const words = [];
  const add = (name, value, otherwise) => {
    if (value !== otherwise && value !== null) words.push(`${name}=${encodeURIComponent(value).replaceAll("%2C", ",")}`);
  };
  add("q", state.plus.join(","), "");
  add("not", state.minus.join(","), "");
  add("part", state.part, null);
  add("cluster", state.cluster, null);
  add("area", state.area?.join(",") ?? null, null);
  add("tab", state.tab, "similar");
  add("n", state.n, null);
  add("label", state.label, null);
  add("view", state.view, "wall");
  add("method", state.method, "pca");
  add("of", state.of, usual.of);
  add("colours", Number(state.colours), Number(usual.colours));
  if (words.length === 1 && /^q=\d+$/.test(words[0])) return `#${state.plus[0]}`;
  return words.length ? `#${words.join("&")}` : "";
}
