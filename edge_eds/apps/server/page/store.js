// What the page remembers: settings, the message being written, and the turns of the conversation, in localStorage.
//
// A turn is {question, system, model, gate, strength, seed, answers: {steered, plain}}, with the gate's bounds. An
// answer is {state, text, finish, eds, reading, error}: state is "waiting", "answering", "done", "stopped" or "failed",
// eds the server's trace, and reading the energy of each token (reading.js).

const PLACE = "edge-eds.page";
const FORM = 1; // of what is stored; other forms are not read

const fresh = () => ({
  form: FORM,
  settings: { strength: null, compare: true, colours: true, system: "", maxTokens: 256, temperature: null },
  draft: "",
  turns: [],
});

/** The state as it was left, or a fresh one. Answers that were being made are stopped ones. */
export function load() {
  let state = null;
  try {
    state = JSON.parse(localStorage.getItem(PLACE));
  } catch {
    // not ours, or the browser lets us remember nothing
  }
  if (state?.form !== FORM) return fresh();
  for (const turn of state.turns) {
    for (const answer of Object.values(turn.answers)) {
      if (answer.state === "waiting" || answer.state === "answering") answer.state = "stopped";
    }
  }
  return state;
}

/** Remember the state; false if the browser has no room for it. */
export function save(state) {
  try {
    localStorage.setItem(PLACE, JSON.stringify(state));
    return true;
  } catch {
    return false;
  }
}
