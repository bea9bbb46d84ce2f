// Calls of the service. The page and the service have the same address, also below a path prefix.

/** The service's address: two folders above this file, which is `page/VERSION/api.js`. */
const ROOT = new URL("../../", import.meta.url);

/** An error of the service (RFC 9457), or of the way to it (`status` 0). */
class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `the service answered ${status}`);
    this.status = status;
    this.title = document.title || "";
    this.kind = (document.type || "").split(":").pop();
    this.errors = document.errors || [];
    this.requestId = document.request_id;
  }

  /** Whether a field of the request is at fault. */
  names(field) {
    return this.errors.some((error) => error.field === field);
  }

  get needsKey() {
    return this.kind === "key-missing" || this.kind === "key-refused";
  }
}

let operator = "";
const listeners = new Set();
let signedIn = null; // a promise while calls wait for a sign-in, and what fulfils it
let continueCalls = null;

/** The address of a path of the service. */
export const addressOf = (path) => new URL(path, ROOT).href;

/** Name the person at the keyboard, for the audit log. */
export function setOperator(name) {
  operator = name;
}

/** Call `listener` whenever the service asks for a key. Calls wait until `keyGiven`, then they are sent again: nothing is lost. */
export function onKeyNeeded(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Send the calls again that wait for a sign-in. */
export function keyGiven() {
  continueCalls?.();
  signedIn = null;
}

function askForKey(problem, signal) {
  signedIn ??= new Promise((resolve) => { continueCalls = resolve; });
  listeners.forEach((listener) => listener(problem));
  if (!signal) return signedIn;
  return Promise.race([signedIn, new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  })]);
}

/**
 * Call the service and return the answer's JSON, or `null` without one.
 *
 * `query` is an object of query parameters, whose `null` values are left out; `json` or `form` is the body, `condition` an
 * object of conditional headers.
 */
export async function call(path, { method = "GET", query = {}, json, form, condition, signal } = {}) {
  const response = await send(path, { method, query, json, form, condition, signal });
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "Incomplete answer", detail: "The connection ended before the answer was complete. Try again." });
  }
}

/** Call the service and return the response; a `Problem` is thrown for any error. */
export async function send(path, { method = "GET", query = {}, json, form, condition = {}, signal } = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const headers = { ...condition };
  if (operator) headers["X-Operator"] = encodeURIComponent(operator);
  if (json !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(url, {
      method,
      headers,
      body: json === undefined ? form : JSON.stringify(json),
      signal,
      credentials: "same-origin",
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "No answer", detail: "The service does not answer. Check that it runs, then try again." });
  }
  if (response.ok) return response;
  const document = await response.json().catch(() => ({}));
  const problem = new Problem(response.status, document);
  if (!problem.needsKey || (path === "session" && method !== "GET")) throw problem; // nobody signs in to sign out
  await askForKey(problem, signal);
  return send(path, { method, query, json, form, condition, signal });
}

/** The path of a record. */
export const recordPath = (id) => `gallery/${encodeURIComponent(id)}`;

// Pictures are fetched a few at a time and kept in memory only: the service forbids caches to keep them.
const MAX_PICTURES = 1500;
const MAX_FETCHES = 6;
const pictures = new Map();
const waiting = [];
let running = 0;

/** Return the address of a kept picture of a record for an `img`: of the middle one, or of one by its number. `null`: it
 * has none; `undefined`: it could not be loaded now. */
export function loadPicture(id, frame = null) {
  const name = `${frame} ${id}`;
  const known = pictures.get(name);
  if (known) {
    pictures.delete(name);
    pictures.set(name, known);
    return known;
  }
  const promise = queue(() => fetchPicture(id, frame)).catch((problem) => {
    pictures.delete(name);
    return problem.status === 404 ? null : undefined;
  });
  pictures.set(name, promise);
  if (pictures.size > MAX_PICTURES) {
    const [oldest, dropped] = pictures.entries().next().value;
    pictures.delete(oldest);
    dropped.then((address) => address && setTimeout(() => URL.revokeObjectURL(address), 60_000));
  }
  return promise;
}

/** Forget all pictures, after a sign-out or an erasure. */
export function forgetPictures() {
  for (const promise of pictures.values()) promise.then((address) => address && URL.revokeObjectURL(address));
  pictures.clear();
}

async function fetchPicture(id, frame) {
  const response = await send(`${recordPath(id)}/thumbnail`, { query: { frame } });
  return URL.createObjectURL(await response.blob());
}

function queue(task) {
  return new Promise((resolve, reject) => {
    waiting.push(() => task().then(resolve, reject).finally(next));
    if (running < MAX_FETCHES) {
      running += 1;
      waiting.shift()();
    }
  });
}

function next() {
  const task = waiting.shift();
  if (task) task();
  else running -= 1;
}
