// Has the energies of every token of an answer read: the server decodes the answer once more for it, unsteered.
//
// A reading is {head, layers, thresholds, texts, energies}: which energy it is, and, for the prompt's end (first) and
// each token of the answer, its text and one energy for each layer.

import { energies } from "./api.js";
import { conversation } from "./asking.js";
import { headOf } from "./tokens.js";

/** Of the answers in these turns that could be read and have not been, the last: {turn, side, earlier}, or null. */
export function nextUnread(turns, facts) {
  for (let i = turns.length - 1; i >= 0; i--) {
    const turn = turns[i];
    if (turn.model !== facts.name) continue; // of another model than the one that is served now
    for (const side of ["steered", "plain"]) {
      const answer = turn.answers[side];
      const isWhole = answer?.state === "done" || answer?.state === "stopped";
      if (isWhole && answer.text && answer.reading === null) return { turn, side, earlier: turns.slice(0, i) };
    }
  }
  return null;
}

/** Read one answer. Raises what keeps the server from reading it. */
export async function read({ turn, side, earlier }, facts, signal) {
  const answer = turn.answers[side];
  const found = await energies({ messages: conversation(turn, earlier, side), answer: answer.text }, signal);
  const steered = found.layers.filter((layer) => facts.layers.includes(layer.layer));
  // The same energy on both sides, so that they can be compared, also where their conversations have parted.
  const head = headOf(turn.answers.steered ?? answer) ?? found.head
    ?? (steered.some((layer) => "fr" in layer.energies) ? "fr" : "jb");
  const layers = steered.filter((layer) => head in layer.energies);
  const values = (of) => layers.map(({ layer }) => rounded(of.find((one) => one.layer === layer).energies[head]));
  answer.reading = {
    head,
    layers: layers.map((layer) => layer.layer),
    thresholds: layers.map((layer) => layer.thresholds[head]),
    texts: [null, ...found.tokens.map((token) => token.text)],
    energies: [values(found.layers), ...found.tokens.map((token) => values(token.layers))],
  };
}

const rounded = (energy) => Math.round(energy * 1000) / 1000; // what is remembered of it has to fit the browser's store
