// Who searches, and why: for the audit log. Kept until the browser's tab is closed.

import { setOperator } from "./api.js";
import { html, useState } from "./html.js";

const read = (name) => sessionStorage.getItem(`not3d.${name}`) || "";
const write = (name, text) => sessionStorage.setItem(`not3d.${name}`, text);

export const getPurpose = () => read("purpose");

setOperator(read("operator"));

/** Forget purpose and operator: the next person at this keyboard is another one. */
export function forgetOperator() {
  write("purpose", "");
  write("operator", "");
}

/** On a phone the fields are folded, so that results are seen without scrolling past them. */
const isWide = matchMedia("(min-width: 761px)").matches;

/** The name under which the service keeps a verdict: the operator, otherwise the key or user. */
export const authorOf = (caller) => read("operator") || caller?.name;

/** The fields for purpose and operator. `onDone()` is called after a change. */
export function Purpose({ isMissing, onDone }) {
  const [purpose, setPurpose] = useState(read("purpose"));
  const [operator, setName] = useState(read("operator"));
  const save = (event) => {
    event?.preventDefault();
    if (purpose.trim() === read("purpose") && operator.trim() === read("operator")) return;
    write("purpose", purpose.trim());
    write("operator", operator.trim());
    setOperator(operator.trim());
    onDone();
  };
  return html`
    <form class="purpose" onSubmit=${save}>
      <details open=${isWide || Boolean(isMissing)}>
      <summary><h2>For the audit log</h2></summary>
      <label>Purpose <input type="text" maxlength="500" value=${purpose} placeholder="case number, reason" aria-invalid=${Boolean(isMissing)}
        aria-describedby="purpose-hint" onInput=${(event) => setPurpose(event.target.value)} onBlur=${save} /></label>
      <label>Operator <input type="text" maxlength="100" value=${operator} placeholder="your name" autocomplete="name"
        onInput=${(event) => setName(event.target.value)} onBlur=${save} /></label>
      <p id="purpose-hint" class=${isMissing ? "note" : "quiet"}>${isMissing
        ? "This service searches only with a purpose. Give one, then press Enter."
        : "Each search is recorded with them."}</p>
      <button type="submit" class="hidden" tabindex="-1">Save</button>
      </details>
    </form>`;
}
