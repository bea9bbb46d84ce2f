// How the camera, the times, the metadata and the expiry of a record are changed. Its vector and pictures stay.

import { call, recordPath } from "./api.js";
import { fromLocalInput, timeZone, toLocalInput } from "./format.js";
import { html, useState } from "./html.js";
import { Dialog, ProblemNote } from "./parts.js";

const TIMES = { start_time: "From", end_time: "Until", expires_at: "Expires" };

/** Return the changed fields of a form, as the service takes them; a time that was not touched keeps its fractions. */
function changesOf(record, form) {
  const changes = {};
  const camera = form.camera_id.trim() || null;
  if (camera !== record.camera_id) changes.camera_id = camera;
  for (const name of Object.keys(TIMES)) {
    if (form[name] !== toLocalInput(record[name])) changes[name] = fromLocalInput(form[name]);
  }
  const metadata = form.metadata.trim() ? JSON.parse(form.metadata) : {};
  if (JSON.stringify(metadata) !== JSON.stringify(record.metadata)) changes.metadata = metadata;
  return changes;
}

function isObject(text) {
  try {
    const value = JSON.parse(text.trim() || "{}");
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

export function ChangeRecord({ record, onClose, onChanged }) {
  const [form, setForm] = useState(() => ({
    camera_id: record.camera_id ?? "",
    ...Object.fromEntries(Object.keys(TIMES).map((name) => [name, toLocalInput(record[name])])),
    metadata: Object.keys(record.metadata).length ? JSON.stringify(record.metadata, null, 2) : "",
  }));
  const [problem, setProblem] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const set = (name) => (event) => {
    if (name === "metadata") event.target.setCustomValidity(isObject(event.target.value) ? "" : "Enter a JSON object such as {\"zone\": \"platform\"}.");
    setForm({ ...form, [name]: event.target.value });
  };
  const submit = async (event) => {
    event.preventDefault();
    if (isBusy) return undefined;
    const changes = changesOf(record, form);
    if (!Object.keys(changes).length) return onClose();
    setBusy(true);
    try {
      return onChanged(await call(recordPath(record.id), { method: "PATCH", json: changes }));
    } catch (found) {
      setBusy(false);
      return setProblem(found);
    }
  };
  return html`
    <${Dialog} title="Change the record" onClose=${isBusy ? undefined : onClose}>
      <form onSubmit=${submit}>
        <p><bdi><strong>${record.id}</strong></bdi></p>
        <label>Camera <input type="text" value=${form.camera_id} maxlength="128" placeholder="none" dir="auto" onInput=${set("camera_id")} /></label>
        ${Object.entries(TIMES).map(([name, title]) => html`
          <label key=${name}>${title} <input type="datetime-local" step="1" value=${form[name]} onInput=${set(name)} /></label>`)}
        <label>Metadata, as JSON <textarea rows="6" spellcheck="false" dir="auto" value=${form.metadata} onInput=${set("metadata")}></textarea></label>
        <p class="quiet">Times of ${timeZone}; an empty one is unknown, or for the expiry that of the service. The vector and the pictures stay. The audit log records the change.</p>
        <${ProblemNote} problem=${problem} />
        <div class="actions">
          <button type="submit" class="primary" aria-disabled=${isBusy}>Save</button>
          <button type="button" disabled=${isBusy} onClick=${onClose}>Keep it as it is</button>
        </div>
      </form>
    </${Dialog}>`;
}
