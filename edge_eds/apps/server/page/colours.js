// The energy of each token as colour under the text, and as bars above and below the threshold (or 0).

import { draw, make } from "./dom.js";
import { described, HEADS, levelOf, nameOf, number, PROMPT_END } from "./tokens.js";

const HEIGHT = 44; // pixels of the longest bar of a turn
const WIDTH = 14; // pixels of a token, at most

/** The text of an answer with colours under its tokens; the prompt's end stands before it. most: see `reach`. */
export function colouredText(text, tokens, most) {
  const parts = [];
  let from = 0;
  for (const token of tokens) {
    if (token.offset === 0) {
      parts.push(mark(token, PROMPT_END, most), " ");
      continue;
    }
    const at = token.text ? text.indexOf(token.text, from) : -1;
    if (at < 0 || text.slice(from, at).trim()) continue; // not shown: part of a letter, or of what ended the answer
    parts.push(text.slice(from, at), mark(token, token.text, most));
    from = at + token.text.length;
  }
  return [...parts, document.createTextNode(text.slice(from))];
}

/**
 * A bar for each token, and a line that says more of the one that is pointed at, or gone to with the arrow keys.
 * text: where its marks are.
 */
export function strip(tokens, head, most, text) {
  const excess = tokens.flatMap(({ before, after }) => [before, after]);
  const [top, bottom] = [Math.min(0, ...excess.map((one) => -one)), Math.max(0, ...excess.map((one) => -one))]
    .map((y, i) => (HEIGHT * y) / most + (i === 0 ? -2 : 2));
  const image = draw("svg", {
    class: "strip", preserveAspectRatio: "none", "aria-label": inBrief(tokens),
    role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": tokens.length - 1, // so the keys are told of
    viewBox: `0 ${top} ${tokens.length} ${bottom - top}`, height: bottom - top,
  }, ...tokens.flatMap((token, i) => [
    draw("rect", { x: i, width: 1, y: top, height: bottom - top, "data-offset": token.offset, class: "place" }),
    ...bars(token, i, HEIGHT / most),
  ]));
  image.append(draw("line", { class: "level", x1: 0, x2: tokens.length, y1: 0, y2: 0 }));
  image.style.setProperty("max-width", `${WIDTH * tokens.length}px`);
  const rest = `Energy of ${HEADS[head]} at each token: orange above ${levelOf(tokens)}, blue below. `
    + "Point at one for more.";
  const line = make("p", { className: "soft readout" }, rest);
  const element = make("div", { className: "along" }, image, line);
  let at = -1; // the token that is pointed at
  const point = (i) => {
    at = i;
    const offset = i < 0 ? null : String(tokens[i].offset);
    for (const other of [...image.children, ...text.children]) {
      other.classList.toggle("on", offset !== null && other.dataset.offset === offset);
    }
    line.textContent = i < 0 ? rest : described(tokens[i]);
    image.setAttribute("aria-valuenow", Math.max(i, 0));
    image.setAttribute("aria-valuetext", line.textContent);
  };
  point(-1);
  for (const place of [image, text]) {
    place.onpointerover = place.onclick = ({ target }) =>
      point(tokens.findIndex((token) => String(token.offset) === target.dataset.offset));
    place.onpointerleave = () => point(-1); // after a touch a click follows, so that what was touched stays
  }
  image.onkeydown = (event) => {
    const last = tokens.length - 1;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault(); // the page is not to scroll
    point(Math.min(Math.max(to, 0), last));
  };
  image.onblur = () => point(-1);
  return element;
}

/** One bar, or two where steering moved the energy. */
function bars(token, i, scale) {
  const bar = (excess, kind) => {
    const height = Math.max(1, scale * Math.abs(excess));
    const [side, y] = excess > 0 ? ["above", -height] : ["below", 0];
    return draw("rect", { x: i + 0.1, width: 0.8, y, height, "data-offset": token.offset, class: `${kind} ${side}` });
  };
  return token.touched ? [bar(token.before, "was"), bar(token.after, "is")] : [bar(token.after, "is")];
}

/** A token as part of the text: the upper line under it is the energy before steering, the lower one after. */
function mark(token, text, most) {
  const element = make("span", { className: token.offset === 0 ? "token end" : "token" }, text);
  element.dataset.offset = token.offset;
  for (const name of ["before", "after"]) {
    const share = Math.round(20 + (80 * Math.abs(token[name])) / most);
    const hue = `var(--${token[name] > 0 ? "high" : "low"})`;
    element.style.setProperty(`--${name}`, `color-mix(in oklab, var(--even), ${hue} ${share}%)`);
  }
  return element;
}

function inBrief(tokens) {
  const above = tokens.filter((token) => token.after > 0);
  const highest = tokens.reduce((a, b) => (b.after > a.after ? b : a));
  return `Energy at ${tokens.length} tokens: ${above.length} above ${levelOf(tokens)}; highest at “${nameOf(highest)}”, `
    + `${number(Math.abs(highest.after))} ${highest.after > 0 ? "above" : "below"} it.`;
}
