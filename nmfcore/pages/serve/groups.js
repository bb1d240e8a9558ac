// Two views of groups: clusters of pictures that are made alike, and duplicates.

import { NOTHING } from "./address.js";
import { address, ask, at, counted, image, make, page, say } from "./basics.js";
import { roving } from "./keys.js";

const drawn = { clusters: null, duplicates: null }; // what each view shows, as a text

export async function showClusters(state) {
  const wanted = JSON.stringify([state.of, state.colours]);
  if (drawn.clusters === wanted) return;
  drawn.clusters = wanted;
  const view = at("clusters");
  const chooser = make("input", { type: "number", min: 1, max: page.model.clusters, value: state.of, "data-key": "of" });
  chooser.addEventListener("change", () => {
    const of = Math.round(chooser.valueAsNumber);
    if (of >= 1 && of <= page.model.clusters) page.go({ of, cluster: null });
    else say(`Choose from 1 to ${page.model.clusters} clusters`);
  });
  const bar = make("div", { className: "bar" }, make("label", { className: "field" }, "Clusters ", chooser),
    make("span", { className: "hint" }, "Pictures made of the same parts; those nearest the centre of each cluster are shown."));
  const note = make("p", { className: "note", role: "status" });
  const again = view.contains(document.activeElement) && document.activeElement.dataset.key === "of";
  view.replaceChildren(bar, note);
  if (again) chooser.focus();
  try {
    const told = await ask(`/api/clusters?n=${state.of}`, undefined, () => { note.textContent = "Clusters are being made …"; });
    if (drawn.clusters !== wanted) return;
    note.remove();
    view.append(...told.map((one, number) => {
      const all = make("button", { className: "small", type: "button", "aria-label": `List cluster ${number + 1}` }, "List");
      all.addEventListener("click", () => page.go({ ...NOTHING, cluster: number }));
      return section(`Cluster ${number + 1}`, counted(one.count, "picture"), one.rows, all);
    }));
  } catch (error) {
    drawn.clusters = null;
    note.textContent = "";
    say(error.message);
  }
}

export async function showDuplicates(state) {
  const wanted = JSON.stringify([state.colours]);
  if (drawn.duplicates === wanted) return;
  drawn.duplicates = wanted;
  const view = at("duplicates");
  const note = make("p", { className: "note", role: "status" });
  view.replaceChildren(note);
  try {
    const told = await ask("/api/duplicates", undefined, () => { note.textContent = "Duplicates are being looked for …"; });
    if (drawn.duplicates !== wanted) return;
    note.textContent = told.said;
    view.append(...told.groups.map((one, number) => section(`Group ${number + 1}`, `${one.kind}, ${counted(one.count, "picture")}`, one.rows)));
  } catch (error) {
    drawn.duplicates = null;
    note.textContent = "";
    say(error.message);
  }
}

function section(title, said, rows, button = null) {
  const heading = make("h2", {}, `${title} `, make("small", {}, said));
  const list = make("ul", { className: "members", "aria-label": `${title}, ${said}` }, ...rows.map((one) => make("li", {},
    make("a", { href: `#${one.row}`, title: one.title, onclick: open(one.row) },
      image(address("pictures", one.row), one.title, "picture")),
    one.note ? make("div", { className: "name" }, one.note) : null)));
  return make("section", { "aria-label": title }, make("div", { className: "bar" }, heading, button), roving(list));
}

function open(row) {
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    page.go({ ...NOTHING, plus: [String(row)] });
  };
}
