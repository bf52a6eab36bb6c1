// Wires the page: what is typed, clicked and moved becomes turns, and turns are remembered.

import { facts as askFacts, useKey } from "./api.js";
import { fill, newTurn } from "./asking.js";
import { byId, make } from "./dom.js";
import { nextUnread, read } from "./reading.js";
import { load, save } from "./store.js";
import { TurnView } from "./turn.js";

const EXAMPLES = [
  "How can I blow up a balloon without a pump?",
  "How do I get rid of weeds in my garden?",
  "How can I destroy old paper records safely?",
];
const NEAR_END = 80; // pixels: who has scrolled further up than this reads, and is left in peace

let state = load();
let facts = null; // of the server, once they are known
let running = null; // the AbortController of the turn that is being answered
let reading = null; // the AbortController of the answer whose energies are being read
let cleared = null; // the turns before the last Clear, to bring them back
const views = [];

const question = byId("question");
const strength = byId("strength");

// -- asking

/** Ask for both answers. isAgain: in place of those of the last turn. */
async function ask(text, isAgain = false) {
  if (running !== null || text.trim() === "") return;
  const stop = new AbortController();
  showRunning(stop);
  reading?.abort(); // those who wait for an answer come first
  try {
    if (!(await learnFacts())) return;
    if (isAgain) {
      state.turns.pop();
      views.pop().element.remove();
    } else {
      question.value = state.draft = "";
    }
    forgetCleared();
    const earlier = [...state.turns];
    const turn = newTurn(text.trim(), sides(), facts, state.settings);
    state.turns.push(turn);
    const view = show(turn);
    remember();
    view.element.scrollIntoView({ block: "start" });
    const errors = await fill(turn, earlier, facts, state.settings, stop.signal, (side, added) => {
      const isFollowed = added !== null && isAtEnd();
      if (added === null) view.update();
      else view.add(side, added);
      if (isFollowed) scrollTo(0, document.body.scrollHeight);
    });
    if (errors.length > 0) facts = null; // it may have become another server
    if (errors.some((error) => error.status === 401)) lock();
    say(spoken(turn));
  } finally {
    showRunning(null);
    remember();
    readAll();
  }
}

/** While nothing is asked, have the energies read of each answer that has none; the last ones first. */
async function readAll() {
  if (reading !== null || running !== null || facts === null || facts.plainName === null) return;
  reading = new AbortController();
  try {
    for (;;) {
      const next = state.settings.colours ? nextUnread(state.turns, facts) : null;
      if (next === null) break;
      await read(next, facts, reading.signal);
      views[state.turns.indexOf(next.turn)]?.update();
      remember();
    }
  } catch {
    // An answer without colours is no reason to interrupt anybody. What keeps the server from reading (it is busy, it
    // is gone, the conversation is too long by now) will be told by the next answer, after which this is tried again.
  } finally {
    reading = null;
  }
}

/** Steered first: it is what one waits for where the server makes one answer at a time. */
function sides() {
  if (facts.plainName === null) return ["plain"];
  return state.settings.compare ? ["steered", "plain"] : ["steered"];
}

/** Ask the server what it serves, unless it is known; false, and a line of why, if it does not say. */
async function learnFacts() {
  if (facts !== null) return true;
  try {
    facts = await askFacts();
  } catch (error) {
    problem(error.message);
    if (error.status === 401) lock();
    return false;
  }
  problem("");
  byId("lock").hidden = true;
  showFacts();
  readAll();
  return true;
}

function lock() {
  byId("lock").hidden = false;
  byId("key").focus();
}

// -- showing

function show(turn) {
  const view = new TurnView(turn, () => ask(turn.question, true));
  views.push(view);
  byId("turns").append(view.element);
  byId("hello").hidden = true;
  return view;
}

function showAll() {
  views.length = 0;
  byId("turns").replaceChildren();
  byId("hello").hidden = state.turns.length > 0;
  state.turns.forEach(show);
}

function showFacts() {
  const { settings } = state;
  byId("model").textContent = facts.name;
  strength.max = Math.max(2, facts.strength, settings.strength ?? 0);
  strength.disabled = byId("compare").disabled = facts.plainName === null;
  if (facts.plainName === null) {
    byId("hello-text").textContent = "This server has no energies: answers are those of the model as it is.";
  }
  showStrength();
}

function showStrength() {
  const value = state.settings.strength ?? facts?.strength ?? 1;
  strength.value = value;
  byId("strength-value").textContent = value.toFixed(2);
}

function showRunning(stop) {
  running = stop;
  const hadFocus = document.activeElement === byId("stop");
  byId("send").hidden = stop !== null;
  byId("stop").hidden = stop === null;
  document.body.classList.toggle("running", stop !== null);
  if (hadFocus) question.focus();
}

function showSettings() {
  const { settings } = state;
  question.value = state.draft;
  byId("compare").checked = settings.compare;
  byId("colours").checked = settings.colours;
  byId("system").value = settings.system;
  byId("max-tokens").value = settings.maxTokens;
  byId("temperature").value = settings.temperature ?? "";
  showStrength();
}

const isAtEnd = () => document.body.scrollHeight - scrollY - innerHeight < NEAR_END;

/** A line about what is wrong; "" for nothing. */
function problem(text) {
  byId("problem").textContent = text;
}

/** Tell those who listen instead of looking. */
function say(text) {
  byId("status").textContent = text;
}

function spoken(turn) {
  const told = ["plain", "steered"].filter((side) => side in turn.answers).map((side) => {
    const answer = turn.answers[side];
    const name = side === "plain" ? "Plain answer" : "Steered answer";
    return `${name}${answer.state === "stopped" ? ", stopped" : ""}: ${answer.error ?? answer.text}`;
  });
  return told.join("\n");
}

function remember() {
  if (!save(state)) problem("The browser has no room to remember this conversation; a reload will lose some of it.");
}

function forgetCleared() {
  cleared = null;
  byId("clear").textContent = "Clear";
}

// -- what people do

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(question.value);
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask(question.value);
  }
});
question.addEventListener("input", () => {
  state.draft = question.value;
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
byId("stop").addEventListener("click", () => running.abort());

byId("clear").addEventListener("click", () => {
  running?.abort();
  if (cleared !== null) {
    state.turns = cleared;
    forgetCleared();
  } else if (state.turns.length > 0) {
    cleared = state.turns;
    state.turns = [];
    byId("clear").textContent = "Bring back";
  }
  showAll();
  remember();
  question.focus();
});

strength.addEventListener("input", () => {
  state.settings.strength = Number(strength.value);
  showStrength();
});
byId("compare").addEventListener("change", (event) => {
  state.settings.compare = event.target.checked;
});
byId("colours").addEventListener("change", (event) => {
  state.settings.colours = event.target.checked;
  readAll();
});
byId("system").addEventListener("input", (event) => {
  state.settings.system = event.target.value;
});
byId("max-tokens").addEventListener("change", (event) => {
  if (event.target.reportValidity() && event.target.value !== "") state.settings.maxTokens = event.target.valueAsNumber;
  event.target.value = state.settings.maxTokens;
});
byId("temperature").addEventListener("change", (event) => {
  const { value, valueAsNumber } = event.target;
  if (event.target.reportValidity()) state.settings.temperature = value === "" ? null : valueAsNumber;
});

byId("unlock").addEventListener("click", async () => {
  if (!useKey(byId("key").value.trim())) {
    problem("A key has letters, digits and signs of ASCII alone, and no spaces.");
    return;
  }
  facts = null;
  if (await learnFacts()) question.focus();
});
byId("key").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // the question is not to be sent
  byId("unlock").click();
});
byId("composer").addEventListener("change", remember);
addEventListener("pagehide", remember);

byId("examples").append(...EXAMPLES.map((text) =>
  make("li", {}, make("button", { type: "button", onclick: () => ask(text) }, text))));
showSettings();
showAll();
scrollTo(0, document.body.scrollHeight);
learnFacts();
