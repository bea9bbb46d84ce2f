// Alerts: probable appearances of people on watchlists, live, with verdicts; and the watchlists themselves.

import { addressOf, call } from "./api.js";
import { formatProbability, formatScore, formatTime, plural } from "./format.js";
import { VERDICTS, VERDICT_KEYS } from "./grid.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { Command, Picture, ProblemNote, refocus } from "./parts.js";
import { DeleteWatchlist, WatchDialog } from "./watchlists.js";

const PAGE = 50;
const MAX_SHOWN = 500;
const RETRY_MILLISECONDS = 5000;
const lastCalls = new Map(); // about a verdict, by the id of the alert

/** Call `onAlert` for each alert after `cursor`. The browser connects again after a break and says where it was. */
function useStream(cursor, watchlist, onAlert) {
  const [live, setLive] = useState(false);
  const latest = useRef(onAlert);
  latest.current = onAlert;
  useEffect(() => {
    if (!cursor) return undefined;
    let source;
    let timer;
    let last = cursor;
    const connect = () => {
      const address = new URL(addressOf("alerts/stream"));
      address.searchParams.set("after", last);
      if (watchlist) address.searchParams.set("watchlist", watchlist);
      source = new EventSource(address);
      source.onopen = () => setLive(true);
      source.addEventListener("alert", (event) => {
        last = event.lastEventId;
        latest.current(JSON.parse(event.data));
      });
      source.onerror = () => {
        setLive(false);
        if (source.readyState !== EventSource.CLOSED) return; // it connects again by itself
        timer = setTimeout(connect, RETRY_MILLISECONDS); // the service refused, as while it starts
      };
    };
    connect();
    return () => {
      clearTimeout(timer);
      source.close();
      setLive(false);
    };
  }, [cursor, watchlist]);
  return live;
}

/** The watchlists that this key sees, or `null`, and a function that reads them again. */
function useWatchlists() {
  const [items, setItems] = useState(null);
  const turn = useRef(0);
  const load = async () => {
    const mine = (turn.current += 1);
    const found = await call("watchlists").catch(() => null);
    if (found && mine === turn.current) setItems(found.items);
  };
  useEffect(() => { load(); }, []);
  return [items, load];
}

export function AlertsView({ state, go, info, may, author, onOpen, changes }) {
  const [items, setItems] = useState([]);
  const [cursor, setCursor] = useState("");
  const [hasMore, setHasMore] = useState(false);
  const [status, setStatus] = useState("loading");
  const [problem, setProblem] = useState(null);
  const [fresh, setFresh] = useState(0);
  const [waiting, setWaiting] = useState([]);
  const [current, setCurrent] = useState("");
  const [watchlists, loadWatchlists] = useWatchlists();
  const list = useRef(null);
  const turn = useRef(0);
  const undo = useRef([]);
  const chosen = state.watchlist;

  const load = async (before) => {
    const mine = (turn.current += 1);
    if (!before) {
      setStatus("loading");
      setHasMore(false);
      setWaiting([]);
    }
    setProblem(null);
    try {
      const found = await call("alerts", { query: { limit: PAGE, before, watchlist: chosen } });
      if (mine !== turn.current) return;
      setItems((now) => (before ? [...now, ...found.items] : found.items));
      if (!before) setCursor(found.cursor);
      setHasMore(found.more);
      setStatus("done");
    } catch (found) {
      if (mine !== turn.current) return;
      setProblem(found);
      if (!before) setStatus("failed");
    }
  };
  useEffect(() => {
    setItems([]);
    undo.current = [];
  }, [chosen]);
  useEffect(() => {
    setCursor("");
    setFresh(0);
    load();
  }, [chosen, changes]);
  const show = (alerts) => {
    setItems((now) => [...alerts, ...now].slice(0, MAX_SHOWN));
    setFresh((now) => now + alerts.length);
    setWaiting([]);
  };
  // A new row would move what the operator aims at: then it waits. Where a finger aims is not known.
  const live = useStream(cursor, chosen, (alert) => {
    if ([...waiting, ...items].some((each) => each.id === alert.id)) return;
    if (waiting.length || (items.length && matchMedia("(hover: none)").matches) || document.querySelector(":is(.alerts, .alerts ~ *):is(:hover, :focus-within)")) setWaiting([alert, ...waiting]);
    else show([alert]);
  });

  // Verdicts on one alert are sent one after the other. The last one is shown at once, as `said`.
  const send = (id, verdict) => {
    const update = (fields) => setItems((now) => now.map((each) => (each.id === id ? { ...each, ...fields } : each)));
    setProblem(null);
    update({ said: verdict ?? null });
    const last = Promise.resolve(lastCalls.get(id))
      .then(() => call(`alerts/${encodeURIComponent(id)}/verdict`, verdict ? { method: "PUT", json: { verdict } } : { method: "DELETE" }))
      .catch(setProblem)
      .then((changed) => {
        update({ ...changed, ...(lastCalls.get(id) === last && { said: undefined }) });
        loadWatchlists();
      });
    lastCalls.set(id, last);
  };
  const judge = (alert, verdict) => {
    // The same verdict a second time takes it back; that of another operator is confirmed by it.
    const { said: own = alert.verdicts.find((each) => each.author === author())?.verdict } = alert;
    undo.current.push([alert.id, own]);
    send(alert.id, own === verdict ? null : verdict);
  };
  useEffect(() => {
    const press = (event) => {
      if (event.key === "u" && undo.current.length && !(event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, dialog"))) send(...undo.current.pop());
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...list.current.children];
    const row = event.target.closest("[data-id]");
    const index = rows.indexOf(row);
    if (index < 0) return;
    const to = { ArrowDown: Math.min(index + 1, rows.length - 1), ArrowUp: Math.max(index - 1, 0), Home: 0, End: rows.length - 1 }[event.key];
    const alert = items.find((each) => each.id === row.dataset.id);
    if (to !== undefined) rows[to].querySelector("[tabindex]").focus();
    else if (VERDICT_KEYS[event.key]) judge(alert, VERDICT_KEYS[event.key]);
    else if (event.key === "Enter" && !event.target.closest("button")) onOpen(alert.record_id);
    else return;
    event.preventDefault();
  };
  const stop = items.some((each) => each.id === current) ? current : items[0]?.id;
  return html`
    <div class="results">
      <div class="title-row">
        <h1>Alerts</h1>
        <span class="quiet" role="status">${status === "done" && `${plural(items.length, "alert")}${hasMore ? " so far" : ""}${fresh ? `, ${fresh} new` : ""}`}</span>
        <span class=${live ? "live on" : "live"}>${live ? "Live" : "Not connected"}</span>
      </div>
      <p class="quiet">Each alert is a probable appearance: the clothing looks like that of an example. It is a lead, not an identity. Look at the footage before anything follows.</p>
      ${watchlists?.length !== 0 && html`
        <label class="watch-filter">Watchlist <select value=${chosen} onChange=${(event) => go({ watchlist: event.target.value })}>
          ${[...new Set(["", ...(watchlists ?? []).map((each) => each.name), chosen])].map((name) => html`<option key=${name} value=${name}>${name || "all"}</option>`)}
        </select></label>`}
      ${status === "done" && !items.length && html`<${NoAlerts} watchlists=${watchlists} may=${may} />`}
      <ul class="alerts" role="list" aria-label="Alerts, newest first" ref=${list} onKeyDown=${press}>
        ${items.map((each) => html`<${Row} key=${each.id} alert=${each} tab=${each.id === stop ? 0 : -1} hasPictures=${Boolean(info?.gallery.thumbnails)}
          onCurrent=${setCurrent} onJudge=${judge} onOpen=${onOpen} />`)}
      </ul>
      ${hasMore && html`<div><button type="button" onClick=${() => load(items.at(-1).id)}>Show older alerts</button></div>`}
      <${Watchlists} items=${watchlists} may=${may} info=${info} onOpen=${onOpen} onChanged=${loadWatchlists} />
      <div style=${{ position: "sticky", bottom: 8 }}>
        <${ProblemNote} problem=${problem} onRetry=${status === "failed" && (() => load())} />
        <div role="status">${waiting.length > 0 && html`
          <button type="button" class="primary" onClick=${() => { show(waiting); refocus(".alerts .face"); }}>Show ${plural(waiting.length, "new alert")}</button>`}</div>
      </div>
    </div>`;
}

function Row({ alert, tab, hasPictures, onCurrent, onJudge, onOpen }) {
  const { id, record_id, example_id, watchlist, score, probability, verdicts, said: verdict = alert.verdict } = alert;
  const camera = alert.camera_id ?? "no camera";
  const when = formatTime(alert.start_time || alert.time);
  const certainty = probability === null ? `score ${formatScore(score)}` : `${formatProbability(probability)} probable`;
  const words = `Probable appearance, ${certainty}, watchlist ${watchlist}, ${camera}, ${when}, ${record_id}${verdict ? `, verdict: ${verdict}` : ""}`;
  return html`
    <li class=${`alert ${verdict || ""}`} data-id=${id}>
      <div class="face" role="group" tabindex=${tab} aria-label=${words} onFocus=${() => onCurrent(id)}>
        ${hasPictures && html`
          <figure><${Picture} id=${record_id} /><figcaption>new</figcaption></figure>
          <figure>${example_id ? html`<${Picture} id=${example_id} />` : html`<span class="frame" data-state="none"><span class="no-picture">no picture</span></span>`}<figcaption>example</figcaption></figure>`}
        <div class="words">
          <p><strong>Probable appearance</strong> ${probability === null
            ? html`<span class="quiet">${certainty}, no calibration</span>`
            : html`<strong>${formatProbability(probability)}</strong> <span class="quiet" title="Score">${formatScore(score)}</span>`}</p>
          <p><span class="quiet">Watchlist</span> <bdi>${watchlist}</bdi></p>
          <p><bdi>${camera}</bdi>, ${when}</p>
          <p class="quiet"><bdi>${record_id}</bdi></p>
          ${verdicts.length > 0 && html`<p class="quiet">${verdicts.map((each, index) => html`${index > 0 && ", "}${each.verdict} (<bdi>${each.author}</bdi>)`)}${!alert.verdict && ": does not count yet, more people must agree"}</p>`}
        </div>
      </div>
      <div class="actions">
        ${Object.entries(VERDICTS).map(([name, sign], index) => html`
          <button type="button" key=${name} class=${name} tabindex=${tab} aria-pressed=${verdict === name}
            title=${`${name} (${index + 1})`} onClick=${() => onJudge(alert, name)}><span aria-hidden="true">${sign}</span> ${name}</button>`)}
        <button type="button" class="plain" tabindex=${tab} onClick=${() => onOpen(record_id)}>Open the record</button>
        ${example_id && html`<button type="button" class="plain" tabindex=${tab} onClick=${() => onOpen(example_id)}>Open the example</button>`}
      </div>
    </li>`;
}

function NoAlerts({ watchlists, may }) {
  if (watchlists?.length) return html`<p class="note">No alert yet. New ones appear here as soon as a tracklet is enrolled that passes a threshold.</p>`;
  return html`
    <div class="welcome"><h2>No watchlist yet</h2>
      <p>A watchlist holds examples of one person. Each tracklet that is enrolled from then on is compared with them, and one that passes the threshold raises an alert.</p>
      ${may("admin")
        ? html`<p>Open a record, or a case, and choose <strong>Watch for this person</strong>. Or use the command line:</p>
          <p><${Command} text="not3d watchlist put NAME --id ID --min-probability 0.9" /></p>`
        : html`<p>A key with the scope <code>admin</code> makes watchlists.</p>`}</div>`;
}

function Watchlists({ items, may, info, onOpen, onChanged }) {
  const [[Form, changing], setForm] = useState([]);
  if (!items?.length) return null;
  const close = () => setForm([]);
  const done = () => { close(); onChanged(); };
  return html`
    <section aria-labelledby="watchlists-title">
      <h2 id="watchlists-title">Watchlists</h2>
      <div class="table"><table>
        <caption class="hidden">Watchlists, by name</caption>
        <thead><tr>${["Name", "Alerts from", "Examples", "Ends", "By", ...(may("admin") ? ["Change"] : [])].map((each) => html`<th scope="col">${each}</th>`)}</tr></thead>
        <tbody>${items.map((each) => html`
          <tr key=${each.name}>
            <td><bdi>${each.name}</bdi>${!each.active && html`<p class="note">${each.reason}</p>`}</td>
            <td>${each.min_probability === null ? `score ${formatScore(each.min_score)}` : `${formatProbability(each.min_probability)}${each.threshold === null ? "" : ` (score ${formatScore(each.threshold)})`}`}</td>
            <td>${plural(each.examples.length, "example")}, ${plural(each.rejects.length, "reject")}
              ${each.examples.filter((one) => one.id).slice(0, 3).map((one) => html` <button type="button" key=${one.id} class="plain" onClick=${() => onOpen(one.id)}><bdi>${one.id}</bdi></button>`)}</td>
            <td>${each.expires_at ? formatTime(each.expires_at) : "never"}</td>
            <td><bdi>${each.created_by}</bdi></td>
            ${may("admin") && html`<td><div class="actions"><button type="button" aria-label=${`Change ${each.name}`} onClick=${() => setForm([WatchDialog, each])}>Change</button>
              <button type="button" class="danger" aria-label=${`Delete ${each.name}`} onClick=${() => setForm([DeleteWatchlist, each])}>Delete</button></div></td>`}
          </tr>`)}</tbody>
      </table></div>
      ${Form && html`<${Form} watchlist=${changing} info=${info} onClose=${close} onDone=${done} />`}
    </section>`;
}
