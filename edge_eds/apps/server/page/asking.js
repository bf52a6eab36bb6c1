// Has a turn answered: the steered and the plain answer as two streams, each with the conversation of its own side.

import { answer as stream } from "./api.js";

/** A turn that waits for its answers. sides: of "steered" and "plain", those that are wanted. */
export function newTurn(question, sides, facts, settings) {
  const answers = {};
  for (const side of sides) {
    answers[side] = { state: "waiting", text: "", finish: null, eds: null, gate: null, error: null };
  }
  const seed = Math.floor(Math.random() * 2 ** 31); // one for both sides, so that they differ by steering alone
  return { question, model: facts.name, strength: settings.strength ?? facts.strength, seed, answers };
}

/**
 * Fill the turn's answers, until both have ended in some way.
 * onChange(side, text): something of that answer is new; text: if it is only this much more of it.
 * Gives the errors that ended an answer.
 */
export async function fill(turn, earlier, facts, settings, signal, onChange) {
  const ends = [];
  let ahead = Promise.resolve();
  for (const side of Object.keys(turn.answers)) {
    const wish = {
      model: side === "plain" ? facts.plainName ?? facts.name : facts.name,
      messages: conversation(turn.question, earlier, side, settings.system),
      seed: turn.seed,
      max_tokens: settings.maxTokens,
      ...(settings.temperature === null ? {} : { temperature: settings.temperature }),
      eds: side === "plain" ? { strength: 0 } : { strength: turn.strength, trace: true },
    };
    // The second one queues up when the first one has, so that a server with one slot makes them in this order.
    const before = ends.at(-1) ?? Promise.resolve();
    await ahead;
    let taken;
    ahead = new Promise((resolve) => { taken = resolve; });
    ends.push(fillOne(turn.answers[side], wish, facts, signal, before, taken, (text) => onChange(side, text)));
  }
  return (await Promise.all(ends)).filter((error) => error !== null);
}

async function fillOne(answer, wish, facts, signal, before, taken, onChange) {
  const onText = (text) => {
    const isFirst = answer.state === "waiting";
    answer.state = "answering";
    answer.text += text;
    onChange(isFirst ? null : text);
  };
  try {
    const ask = () => stream(wish, signal, taken, onText);
    const end = await ask().catch(async (error) => {
      if (error.code !== "queue_full") throw error;
      await before; // our own other answer may be what fills the queue
      return ask();
    });
    Object.assign(answer, end, { state: "done", gate: facts.gate });
    return null;
  } catch (error) {
    if (signal.aborted) {
      answer.state = "stopped";
      return null;
    }
    Object.assign(answer, { state: "failed", error: error.message });
    return error;
  } finally {
    taken();
    onChange(null);
  }
}

/** The messages of one side. A turn with one answer counts for both; one without any text is left out. */
function conversation(question, earlier, side, system) {
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of earlier) {
    const other = side === "plain" ? "steered" : "plain";
    const text = turn.answers[side]?.text || turn.answers[other]?.text;
    if (text) messages.push({ role: "user", content: turn.question }, { role: "assistant", content: text });
  }
  return [...messages, { role: "user", content: question }];
}
