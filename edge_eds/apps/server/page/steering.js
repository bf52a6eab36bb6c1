// What steering did to one answer: in words, where the gate's score lies, and as a table of tokens and layers.
// Takes the trace of the server (`eds` of an answer, see docs/server.md) and the tokens that tokens.js makes of it.

import { make } from "./dom.js";
import { haveThresholds, HEADS, headOf, nameOf, number, PROMPT_END } from "./tokens.js";

const FEW = 12; // rows of the table that are shown without being asked for

const GATE = {
  benign: { is: "The gate took this for a harmless request", so: "steered away from a false refusal" },
  harmful: { is: "The gate took this for a harmful request", so: "steered towards a refusal" },
  ungated: { is: "These energies have no gate", so: "steered" },
};

/** What was decided and what was changed. */
export function inWords(eds) {
  if (eds.strength === 0) return "Strength 0: this is the model as it is.";
  if (eds.gate === "uncertain") return "The gate could not tell whether this is harmful: nothing was changed.";
  if (!(eds.gate in GATE)) return "The gate was not read: nothing was changed.";
  const { is, so } = GATE[eds.gate];
  const touched = eds.tokens.filter((token) => token.touched);
  if (touched.length === 0 && typeof eds.refusal_in_sight === "boolean") {
    return `${is}, and the model was about to ${eds.refusal_in_sight ? "refuse" : "answer"} it: nothing was changed.`;
  }
  if (touched.length === 0) return `${is}, and its energy is below the threshold: nothing was changed.`;
  const layers = [...new Set(touched.flatMap(({ layers }) => layers.filter(isTouched).map(({ layer }) => layer)))];
  const where = touched.length === 1 && touched[0].offset === 0
    ? `at the ${PROMPT_END}` : `at ${touched.length} of the ${eds.tokens.length} tokens that may be steered`;
  const energies = `mean energy ${number(eds.energy_before)} → ${number(eds.energy_after)}`.replaceAll(" ", "\u00a0");
  return `${is}: ${so} ${where}, in ${listed("layer", layers.sort((a, b) => a - b))} (${energies}).`;
}

/** Where the gate's score lies between its bounds {benign, harmful}; null without a gate. */
export function gateScale(score, bounds) {
  if (score === null || bounds === null) return null;
  const scale = scaleOf([score, bounds.benign, bounds.harmful]);
  const track = make("span", { className: "track gate", "aria-hidden": "true" });
  place(track, "zone low", 0, scale(bounds.benign));
  place(track, "zone high", scale(bounds.harmful), 1);
  place(track, "dot after", scale(score));
  const words = `Gate score ${number(score)}: harmless up to ${number(bounds.benign)}, harmful from `
    + number(bounds.harmful);
  return make("div", { className: "gate-scale" }, track, make("p", { className: "soft" }, words));
}

/** The steered tokens and layers, before and after, with thresholds; null where no energy was read. */
export function table(eds, tokens) {
  const offsets = new Set(eds.tokens.map((token) => token.offset));
  const rows = tokens.filter((token) => offsets.has(token.offset));
  const layers = rows.flatMap((token) => token.layers);
  if (layers.length === 0) return null;
  const values = layers.flatMap(({ before, after, threshold }) => [before, after, threshold ?? before]);
  const scale = scaleOf(values);
  const summary = `Layer by layer: ${layers.filter(isTouched).length} of ${layers.length} changed`;
  const columns = ["token", "layer", "", "energy"].map((name) =>
    make("th", { scope: "col", className: name === "" ? "drawn" : "" }, name));
  return make("details", { className: "layers", open: layers.length <= FEW },
    make("summary", {}, summary),
    make("table", { className: "chart" },
      make("caption", {}, `${capital(HEADS[headOf({ eds })])}, lower is better: `, key("before", "before"),
        key("after", "after"), ...(haveThresholds(rows) ? [key("threshold", "threshold; changed only above it")] : [])),
      make("thead", {}, make("tr", {}, ...columns)),
      make("tbody", {}, ...rows.flatMap((token) =>
        token.layers.map((layer, i) => row(token, layer, i === 0, scale))))));
}

function row(token, layer, isFirst, scale) {
  const [before, after] = [scale(layer.before), scale(layer.after)];
  const touched = isTouched(layer);
  const track = make("span", { className: "track", "aria-hidden": "true" });
  if (layer.threshold !== null) place(track, "threshold", scale(layer.threshold));
  if (touched) place(track, "way", Math.min(before, after), Math.max(before, after));
  place(track, "dot before", before);
  if (touched) place(track, "dot after", after);
  const threshold = layer.threshold === null ? "no threshold" : `threshold ${number(layer.threshold)}`;
  const shift = `${threshold}, ${layer.steps} steps, moved by ${(100 * layer.shift).toFixed(1)} % of its length`;
  const numbers = touched ? `${number(layer.before)} → ${number(layer.after)}` : `${number(layer.before)}, kept`;
  return make("tr", { className: `${isFirst ? "first " : ""}${touched ? "touched" : ""}`, title: shift },
    make("th", { scope: "row" }, isFirst ? nameOf(token) : make("span", { className: "unseen" }, nameOf(token))),
    make("td", { className: "layer" }, String(layer.layer)),
    make("td", { className: "drawn" }, track, make("span", { className: "unseen" }, shift)),
    make("td", { className: "numbers" }, numbers));
}

const isTouched = ({ steps }) => steps > 0;
const capital = (text) => text[0].toUpperCase() + text.slice(1);

const listed = (noun, values) =>
  values.length === 1 ? `${noun} ${values[0]}` : `${noun}s ${values.slice(0, -1).join(", ")} and ${values.at(-1)}`;

/** From values to places 0..1 along a track, with a little room at both ends. */
function scaleOf(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.06 * (high - low) || 1;
  return (value) => (value - low + room) / (high - low + 2 * room);
}

function place(track, className, from, to = null) {
  const element = make("span", { className });
  element.style.left = `${100 * from}%`;
  if (to !== null) element.style.width = `${100 * (to - from)}%`;
  track.append(element);
}

const key = (kind, words) =>
  make("span", { className: "key" }, make("span", { className: kind === "threshold" ? kind : `dot ${kind}` }), words);
