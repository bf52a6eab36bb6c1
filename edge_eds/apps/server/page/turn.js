// Shows one turn: the question, and its answers side by side, as they come and with what steering did.

import { make } from "./dom.js";
import { chart, colouredText, gateScale, inWords } from "./energy.js";

const TITLES = { plain: "Plain", steered: "Steered" };
const ENDS = {
  stopped: "Stopped. What steering did is told at the end of an answer that is complete.",
  length: "Cut at the longest answer.",
};

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
    for (const side of sides) this.update(side, null);
  }

  /** Show what is new of an answer. added: text that came at its end, or null where more than that has changed. */
  update(side, added) {
    const pane = this.panes[side];
    const answer = this.turn.answers[side];
    if (added !== null) {
      pane.text.lastChild.appendData(added);
      return;
    }
    const { eds } = answer;
    pane.element.dataset.state = answer.state;
    pane.text.replaceChildren(...(eds === null ? [document.createTextNode(answer.text)] : colouredText(answer.text, eds)));
    pane.state.textContent = this.#state(answer);
    pane.state.classList.toggle("problem", answer.state === "failed");
    pane.steering.replaceChildren();
    if (eds !== null) {
      pane.steering.append(...[make("p", { className: "words" }, inWords(eds)), gateScale(eds, answer.gate), chart(eds)]
        .filter((part) => part !== null));
    }
    for (const other of Object.keys(this.panes)) {
      if (other !== side) this.panes[other].state.textContent = this.#state(this.turn.answers[other]);
    }
    this.note.textContent = this.#note();
  }

  #pane(side, isAlone) {
    const strength = side === "steered" ? ` at strength ${this.turn.strength.toFixed(2)}` : "";
    const title = isAlone && side === "plain" ? "Answer" : TITLES[side];
    const text = make("div", { className: "text" });
    const state = make("p", { className: "soft state" });
    const steering = make("div", { className: "steering" });
    const name = make("h3", {}, title, make("span", { className: "soft" }, strength));
    return { element: make("section", { className: `answer ${side}` }, name, text, state, steering), text, state, steering };
  }

  #state(answer) {
    if (answer.state === "waiting") {
      const others = Object.values(this.turn.answers).filter((other) => other !== answer);
      const isBehind = others.some((other) => other.state === "answering");
      return isBehind ? "Waits for its turn: the server works on the other answer." : "Waits for the server …";
    }
    if (answer.state === "failed") return answer.error;
    if (answer.state === "done") return ENDS[answer.finish] ?? (answer.text === "" ? "The answer is empty." : "");
    return ENDS[answer.state] ?? "";
  }

  #note() {
    const { plain, steered } = this.turn.answers;
    if (plain?.state !== "done" || steered?.state !== "done") return "";
    return plain.text === steered.text ? "Both answers are the same." : "The answers differ.";
  }
}
