// The keyboard: a list is one stop of the Tab key, and the arrow keys, Home and End move inside it.

const controlsOf = (item) => [...item.querySelectorAll("a, button")];

// Let a list of items with links and buttons be one stop. Left and right go to the next item, up and down to what lies
// there on the screen, Home and End to the first and the last item. Call it again after items have been added.
export function roving(list) {
  const items = () => [...list.children];
  const stop = list.querySelector('[tabindex="0"]') ?? list.querySelector("a, button");
  for (const control of list.querySelectorAll("a, button")) control.tabIndex = control === stop ? 0 : -1;
  if (list.dataset.roving) return list;
  list.dataset.roving = "true";
  list.addEventListener("focusin", (event) => {
    const control = event.target.closest("a, button");
    if (!control) return;
    for (const other of list.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    control.tabIndex = 0;
  });
  list.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const here = event.target.closest("a, button");
    const all = items();
    const at = all.findIndex((item) => item.contains(here));
    if (at < 0) return;
    const beside = (item) => {
      const controls = item ? controlsOf(item) : [];
      return controls[Math.min(controlsOf(all[at]).indexOf(here), controls.length - 1)];
    };
    const moves = {
      ArrowRight: () => beside(all[at + 1]),
      ArrowLeft: () => beside(all[at - 1]),
      ArrowDown: () => above(list, here, 1),
      ArrowUp: () => above(list, here, -1),
      Home: () => controlsOf(all[0])[0],
      End: () => controlsOf(all.at(-1))[0],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]()?.focus();
  });
  return list;
}

// Return the control that lies below (1) or above (-1) another.
function above(list, here, direction) {
  const from = here.getBoundingClientRect();
  const middle = (from.left + from.right) / 2;
  const near = [];
  for (const control of list.querySelectorAll("a, button")) {
    const box = control.getBoundingClientRect();
    const away = direction > 0 ? box.top - from.bottom : from.top - box.bottom;
    const aside = Math.max(0, box.left - middle, middle - box.right);
    if (control !== here && away >= -2) near.push({ control, away, aside });
  }
  const least = Math.min(...near.map((one) => one.away));
  const line = near.filter((one) => one.away <= least + 12);
  return line.sort((a, b) => a.aside - b.aside)[0]?.control;
}

// Let tabs be one stop; arrow keys, Home and End choose, and `choose(tab)` is called.
export function tabs(list, choose) {
  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const all = [...list.querySelectorAll('[role="tab"]:not([hidden])')];
    const at = all.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const tab = all[(to + all.length) % all.length];
    tab.focus();
    choose(tab);
  });
  return list;
}

export function select(tab, selected) {
  tab.setAttribute("aria-selected", String(selected));
  tab.tabIndex = selected ? 0 : -1;
}
