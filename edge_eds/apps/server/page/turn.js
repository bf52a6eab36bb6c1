// Shows one turn: the question, and its answers side by side, as they come and with what steering did.

import { colouredText, strip } from "./colours.js";
import { make } from "./dom.js";
import { gateScale, inWords, table } from "./steering.js";
import { headOf, reach, tokensOf } from "./tokens.js";

const TITLES = { plain: "Plain", steered: "Steered" };
const STOPPED = { plain: "Stopped.", steered: "Stopped. What steering changed is told of answers that are complete." };

export class TurnView {
  /** onAgain: called when the turn is to be asked once more. */
  constructor(turn, onAgain) {
    this.turn = turn;
    this.panes = {};
    // Read from left to right: first what the model says by itself, then what becomes of it.
    const sides = ["plain", "steered"].filter((side) => side in turn.answers);
    for (const side of sides) this.panes[side] = this.#pane(side, sides.length === 1);
    this.note = make("p", { className: "soft note" });
    this.again = make("button", { type: "button", className: "again", onclick: onAgain }, "Ask again");
    this.element = make("article", { className: "turn" },
      make("h2", { className: "question" }, make("span", { className: "unseen" }, "You: "), turn.question),
      make("div", { className: sides.length === 1 ? "answers" : "answers two" },
        ...sides.map((side) => this.panes[side].element)),
      make("div", { className: "foot" }, this.note, this.again));
    this.update();
  }

  /** Show more text of an answer as it comes. */
  add(side, text) {
    this.panes[side].text.lastChild.appendData(text);
  }

  /** Show everything as it is now. */
  update() {
    const tokens = {};
    for (const side of Object.keys(this.panes)) tokens[side] = tokensOf(this.turn.answers[side]);
    const most = reach(Object.values(tokens).flat()); // one scale for both, so that they can be compared
    for (const side of Object.keys(this.panes)) this.#show(side, tokens[side], most);
    this.note.textContent = this.#note();
  }

  #pane(side, isAlone) {
    const strength = side === "steered" ? ` at strength ${this.turn.strength.toFixed(2)}` : "";
    const title = isAlone && side === "plain" ? "Answer" : TITLES[side];
    const text = make("div", { className: "text" });
    const state = make("p", { className: "soft state" });
    const along = make("div");
    const steering = make("div", { className: "steering" });
    const name = make("h3", {}, title, make("span", { className: "soft" }, strength));
    const element = make("section", { className: `answer ${side}` }, name, text, state, along, steering);
    return { element, text, state, along, steering };
  }

  #show(side, tokens, most) {
    const { element, text, state, along, steering } = this.panes[side];
    const answer = this.turn.answers[side];
    const { eds } = answer;
    element.dataset.state = answer.state;
    text.replaceChildren(...colouredText(answer.text, tokens, most));
    state.textContent = this.#state(side);
    state.classList.toggle("problem", answer.state === "failed");
    along.replaceChildren(...(tokens.length > 1 ? [strip(tokens, headOf(answer), most, text)] : []));
    steering.replaceChildren();
    if (eds === null) return;
    const told = [make("p", { className: "words" }, inWords(eds)), gateScale(eds.gate_score, this.turn.gate)];
    steering.append(...[...told, table(eds, tokens)].filter((part) => part !== null));
  }

  #state(side) {
    const answer = this.turn.answers[side];
    if (answer.state === "waiting") {
      const others = Object.values(this.turn.answers).filter((other) => other !== answer);
      const isBehind = others.some((other) => other.state === "answering");
      return isBehind ? "Waits for its turn: the server works on the other answer." : "Waits for the server …";
    }
    if (answer.state === "failed") return answer.error;
    if (answer.state === "stopped") return STOPPED[side];
    if (answer.state !== "done") return "";
    if (answer.finish === "length") return "Cut at the longest answer.";
    return answer.text === "" ? "The answer is empty." : "";
  }

  #note() {
    const { plain, steered } = this.turn.answers;
    if (plain?.state !== "done" || steered?.state !== "done") return "";
    return plain.text === steered.text ? "Both answers are the same." : "The answers differ.";
  }
}
