// What steering did to one answer: in plain words, as colours under its text, and as a chart that is also a table.
// Takes the trace of the server (`eds` of an answer, see docs/server.md); low energy is good.

import { make } from "./dom.js";

const GATE = {
  benign: "The gate took this for a harmless request: a refusal would be false, and is steered away from.",
  harmful: "The gate took this for a harmful request: it is held at refusing.",
  uncertain: "The gate could not tell a harmless from a harmful request, so nothing was steered.",
  ungated: "These energies have no gate: every request is steered.",
};
const HEADS = { fr: "false refusal", jb: "jailbreak", merged: "merged" };
const PROMPT_END = "end of the prompt";

/** What was decided and what was changed, in plain words. */
export function inWords(eds) {
  if (eds.strength === 0) return "Strength 0: this is the model as it is.";
  const gate = GATE[eds.gate] ?? "The gate was not read.";
  if (eds.tokens.length === 0) return gate;
  const touched = eds.tokens.filter((token) => token.touched);
  if (touched.length === 0) return `${gate} Its energy was low enough already, so nothing was changed.`;
  const layers = new Set(touched.flatMap(touchedLayers));
  const where = touched.length === 1 && touched[0].offset === 0
    ? `at the ${PROMPT_END}`
    : `at ${touched.length} of ${eds.tokens.length} tokens that were read`;
  const from = `mean energy there ${number(eds.energy_before)} → ${number(eds.energy_after)}`;
  return `${gate} Changed ${where}, in ${listed("layer", [...layers].sort((a, b) => a - b))}; ${from}.`;
}

/** Where the gate's score lies between its bounds {benign, harmful}; null without a gate. */
export function gateScale(eds, bounds) {
  if (eds.gate_score === null || bounds === null) return null;
  const scale = scaleOf([eds.gate_score, bounds.benign, bounds.harmful, 0]);
  const track = make("span", { className: "track gate", "aria-hidden": "true" });
  place(track, "zone low", 0, scale(bounds.benign));
  place(track, "zone high", scale(bounds.harmful), 1);
  place(track, "dot after", scale(eds.gate_score));
  const words = `Gate score ${number(eds.gate_score)}: harmless up to ${number(bounds.benign)}, `
    + `harmful from ${number(bounds.harmful)}`;
  return make("p", { className: "gate-scale" }, track, make("span", { className: "soft" }, words));
}

/** The text of an answer, with colours under the tokens whose energy was read; the prompt's end stands before it. */
export function colouredText(text, eds) {
  const shade = shades(eds.tokens);
  const parts = [];
  let from = 0;
  for (const token of eds.tokens) {
    if (token.offset === 0) {
      parts.push(mark(token, PROMPT_END, shade), " ");
      continue;
    }
    const at = token.text ? text.indexOf(token.text, from) : -1;
    if (at < 0) continue; // not shown: part of a letter, or of what ended the answer
    parts.push(text.slice(from, at), mark(token, token.text, shade));
    from = at + token.text.length;
  }
  return [...parts, text.slice(from)];
}

/** The energies of each token and layer, before and after, with thresholds; null where none was read. */
export function chart(eds) {
  const records = eds.tokens.flatMap((token) => token.layers);
  if (records.length === 0) return null;
  const values = records.flatMap((r) => [r.energy_before, r.energy_after, r.threshold].filter((e) => e !== null));
  const scale = scaleOf(values);
  const rows = eds.tokens.flatMap((token) => token.layers.map((layer, i) => row(token, layer, i === 0, scale)));
  const heads = [...new Set(records.map((record) => HEADS[record.head]))].join(" and ");
  return make("table", { className: "chart" },
    make("caption", {}, `Energy of ${heads}: lower is better. `, key("before", "before"), key("after", "after"),
      key("threshold", "threshold: changed only above it"), " Under the text: upper line before, lower line after, ",
      make("span", { className: "ramp low" }, "lower"), " to ", make("span", { className: "ramp high" }, "higher"), "."),
    make("thead", {}, make("tr", {}, ...["token", "layer", "", "before → after"].map(
      (name) => make("th", { scope: "col", className: name === "" ? "drawn" : "" }, name)))),
    make("tbody", {}, ...rows));
}

function row(token, layer, isFirst, scale) {
  const [before, after] = [scale(layer.energy_before), scale(layer.energy_after)];
  const track = make("span", { className: "track", "aria-hidden": "true" });
  if (layer.threshold !== null) place(track, "threshold", scale(layer.threshold));
  if (layer.steps > 0) place(track, "way", Math.min(before, after), Math.max(before, after));
  place(track, "dot before", before);
  if (layer.steps > 0) place(track, "dot after", after);
  const threshold = layer.threshold === null ? "no threshold" : `threshold ${number(layer.threshold)}`;
  const shift = `${threshold}, ${layer.steps} steps, moved by ${(100 * layer.shift).toFixed(1)} % of its length`;
  const numbers = layer.steps > 0
    ? `${number(layer.energy_before)} → ${number(layer.energy_after)}`
    : `${number(layer.energy_before)}, kept`;
  const name = token.offset === 0 ? PROMPT_END : visible(token.text);
  return make("tr", { className: `${isFirst ? "first " : ""}${layer.steps > 0 ? "touched" : ""}`, title: shift },
    make("th", { scope: "row" }, isFirst ? name : make("span", { className: "unseen" }, name)),
    make("td", { className: "layer" }, String(layer.layer)),
    make("td", { className: "drawn" }, track, make("span", { className: "unseen" }, shift)),
    make("td", { className: "numbers" }, numbers));
}

/** A token as part of the text: the upper line under it is the energy before, the lower one after. */
function mark(token, text, shade) {
  const moved = token.layers.filter((layer) => layer.steps > 0)
    .map((layer) => `layer ${layer.layer}: ${number(layer.energy_before)} → ${number(layer.energy_after)}`);
  const title = moved.length > 0 ? moved.join("; ") : "below the threshold in every layer: left as it was";
  const element = make("span", { className: token.offset === 0 ? "token end" : "token", title }, text);
  element.style.setProperty("--before", `${shade(highest(token, "energy_before"))}%`);
  element.style.setProperty("--after", `${shade(highest(token, "energy_after"))}%`);
  return element;
}

/** From how far energies lie above their threshold to 0 (lowest) ... 50 (at the threshold) ... 100 (highest). */
function shades(tokens) {
  const all = tokens.flatMap((token) => [highest(token, "energy_before"), highest(token, "energy_after")]);
  const most = Math.max(1e-9, ...all.map(Math.abs));
  return (excess) => Math.round(50 + (50 * excess) / most);
}

/** The layer that counts is the one that lies highest above its threshold: one is enough for a token to be changed. */
const highest = (token, name) => Math.max(...token.layers.map((layer) => layer[name] - (layer.threshold ?? 0)));

const touchedLayers = (token) => token.layers.filter((layer) => layer.steps > 0).map((layer) => layer.layer);
/** A token as a name: line breaks and blanks are made visible. */
const visible = (text) => text?.replaceAll("\n", "↵").trim() || "␣";
const number = (value) => value.toFixed(2).replace("-", "−");

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
