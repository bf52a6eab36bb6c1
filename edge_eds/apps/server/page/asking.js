// Has a turn answered: the steered and the plain answer as two streams, each with the conversation of its own side.

import { answer as stream } from "./api.js";

const PAUSE = 500; // ms, before a server that was full is asked again

/** A turn that waits for its answers. sides: of "steered" and "plain", those that are wanted. */
export function newTurn(question, sides, facts, settings) {
  const answers = {};
  for (const side of sides) {
    answers[side] = { state: "waiting", text: "", finish: null, eds: null, reading: null, error: null };
  }
  const seed = Math.floor(Math.random() * 2 ** 31); // one for both sides, so that they differ by steering alone
  const strength = settings.strength ?? facts.strength;
  return { question, system: settings.system, model: facts.name, gate: facts.gate, strength, seed, answers };
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
      messages: conversation(turn, earlier, side),
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
    ends.push(fillOne(turn.answers[side], wish, signal, before, taken, (text) => onChange(side, text)));
  }
  return (await Promise.all(ends)).filter((error) => error !== null);
}

async function fillOne(answer, wish, signal, before, taken, onChange) {
  const onText = (text) => {
    const isFirst = answer.state === "waiting";
    answer.state = "answering";
    answer.text += text;
    onChange(isFirst ? null : text);
  };
  try {
    const end = await patiently(() => stream(wish, signal, taken, onText), before, signal);
    Object.assign(answer, end, { state: "done" });
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

/** What `ask` gives, once the server has room. before: our own other answer, which may be what fills its queue. */
async function patiently(ask, before, signal) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (error.code !== "queue_full") throw error;
    }
    await before;
    await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
    signal.throwIfAborted();
  }
}

/** The messages that one side of a turn answers. An earlier turn with one answer counts for both; one without text is
 * left out. */
export function conversation(turn, earlier, side) {
  const messages = turn.system.trim() ? [{ role: "system", content: turn.system }] : [];
  const other = side === "plain" ? "steered" : "plain";
  for (const { question, answers } of earlier) {
    const text = answers[side]?.text || answers[other]?.text;
    if (text) messages.push({ role: "user", content: question }, { role: "assistant", content: text });
  }
  return [...messages, { role: "user", content: turn.question }];
}
