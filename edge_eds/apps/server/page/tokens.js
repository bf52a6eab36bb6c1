// The tokens of an answer with their energies, from what steering traced and what was read afterwards; low is good.
//
// A token is {offset, text, layers, before, after, touched}; offset 0 is the prompt's end. Each of its layers is
// {layer, before, after, threshold, steps, shift}. Its own before and after say how far the layer that counts lies
// above its threshold, or above 0 where it has none: the highest one, since one is enough for a token to be changed.

export const PROMPT_END = "end of the prompt";
export const HEADS = { fr: "false refusal", jb: "jailbreak", merged: "bad answers" };

/** The tokens of an answer; a trace goes before a reading, which was made without steering. */
export function tokensOf({ eds, reading }) {
  const traced = new Map((eds?.tokens ?? []).map((token) => [token.offset, token]));
  if (reading === null) return [...traced.values()].map(fromTrace);
  return reading.texts.map((text, offset) => {
    const trace = traced.get(offset);
    return trace !== undefined && trace.text === text ? fromTrace(trace) : fromReading(reading, offset);
  });
}

/** Which energy it is that the tokens of an answer have; null without any. */
export const headOf = ({ eds, reading }) => eds?.tokens[0]?.layers[0].head ?? reading?.head ?? null;

/** How far the energies of these tokens lie from their thresholds (or 0) at most. */
export const reach = (tokens) =>
  Math.max(1e-6, ...tokens.flatMap(({ before, after }) => [Math.abs(before), Math.abs(after)]));

/** Whether some layer of these tokens has a threshold. */
export const haveThresholds = (tokens) =>
  tokens.some(({ layers }) => layers.some(({ threshold }) => threshold !== null));

/** What the energies of these tokens are seen against, in words. */
export const levelOf = (tokens) => (haveThresholds(tokens) ? "the threshold" : "0");

/** A token as a name: line breaks and blanks are made visible. */
export const nameOf = ({ offset, text }) => (offset === 0 ? PROMPT_END : text.replaceAll("\n", "↵").trim() || "␣");

/** A number with two digits and a proper minus. */
export const number = (value) => value.toFixed(2).replace("-", "−");

/** All that is known of a token, in a line. */
export function described(token) {
  const layers = token.layers.map(({ layer, before, after, steps }) =>
    `layer ${layer}: ${number(before)}${steps > 0 ? ` → ${number(after)}` : ""}`);
  const place = `${token.after > 0 ? "above" : "below"} ${levelOf([token])}`;
  const what = token.touched ? "moved by steering" : place;
  return `“${nameOf(token)}”: ${what} (${layers.join(", ")})`.replaceAll(/(layer|\d:|→) | (→)/g, "$1\u00a0$2");
}

function fromTrace({ offset, text, layers }) {
  return token(offset, text, layers.map((layer) =>
    ({ ...layer, before: layer.energy_before, after: layer.energy_after })));
}

function fromReading({ layers, thresholds, texts, energies }, offset) {
  return token(offset, texts[offset], layers.map((layer, i) => {
    const energy = energies[offset][i];
    return { layer, before: energy, after: energy, threshold: thresholds[i], steps: 0, shift: 0 };
  }));
}

function token(offset, text, layers) {
  const highest = (name) => Math.max(...layers.map((layer) => layer[name] - (layer.threshold ?? 0)));
  const touched = layers.some((layer) => layer.steps > 0);
  return { offset, text, layers, before: highest("before"), after: highest("after"), touched };
}
