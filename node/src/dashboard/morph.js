// Makes a part of the page what it should be, and leaves alone what is so already: who presses, types, scrolls or selects there goes
// on undisturbed. Children are known again by their key (data-key, data-row), those without one by their place.

const keyOf = (node) => node.dataset?.key ?? node.dataset?.row;
const isAlike = (one, other) => one.nodeName === other.nodeName && one.namespaceURI === other.namespaceURI;

export function morph(within, ...wanted) {
  const focused = document.activeElement;
  become(within, wanted);
  // What had to move to another place lost the keyboard by it.
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
}

function become(within, wanted) {
  const stay = new Set(wanted.map(keyOf).filter(Boolean));
  const known = new Map();
  for (const child of [...within.childNodes]) {
    const key = keyOf(child);
    if (key && (!stay.has(key) || known.has(key))) child.remove();
    else if (key) known.set(key, child);
  }
  let at = within.firstChild;
  for (const next of wanted) {
    const key = keyOf(next);
    const old = key ? known.get(key) : at && !keyOf(at) ? at : null;
    if (!old || !isAlike(old, next)) {
      within.insertBefore(next, at);
      continue;
    }
    known.delete(key);
    if (old === at) at = at.nextSibling;
    else within.insertBefore(old, at);
    copy(old, next);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function copy(old, next) {
  if (!(next instanceof Element)) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  // What it does may be about what is true only now.
  old.onclick = next.onclick;
  become(old, [...next.childNodes]);
}

// Whoever presses means what stands there: nothing is drawn until the press has ended, or has lasted for longer than a press.
const PRESS_MS = 5000;
let press = null;

// Resolves when nothing is being pressed.
export const atRest = async () => press?.ended;

function begin() {
  if (press) return;
  press = {};
  press.ended = new Promise((resolve) => { press.end = resolve; });
  press.timer = setTimeout(end, PRESS_MS);
}

function end() {
  if (!press) return;
  clearTimeout(press.timer);
  const { end: resolve } = press;
  press = null;
  // The click follows first.
  setTimeout(resolve);
}

addEventListener("pointerdown", begin, true);
addEventListener("keydown", (event) => { if (event.key === " " && event.target instanceof HTMLButtonElement) begin(); }, true);
for (const name of ["pointerup", "pointercancel", "keyup"]) addEventListener(name, end, true);
// The window's own: it has lost whoever pressed.
addEventListener("blur", end);
