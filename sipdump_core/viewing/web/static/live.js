// Adds calls and messages to the live page as they come. Whatever comes is text: nothing of it is ever read as HTML.
"use strict";

(() => {
  const MOST = 200;
  const calls = document.getElementById("live-calls");
  const messages = document.getElementById("live-messages");
  const state = document.getElementById("live-state");
  const count = document.getElementById("live-count");
  const pause = document.getElementById("pause");
  const lostNote = document.getElementById("lost");
  const rows = new Map([...calls.rows].map((row) => [row.querySelector("a").getAttribute("href"), row]));
  let held = []; // events while it is paused
  let heldSize = 0;
  let lost = 0;
  let seen = 0;

  const cell = (name, kind, text) => {
    const made = document.createElement(name);
    made.className = kind;
    made.textContent = text;
    return made;
  };

  const linked = (name, kind, text, href) => {
    const made = cell(name, kind, "");
    if (!href) {
      made.textContent = text;
      return made;
    }
    const link = document.createElement("a");
    link.href = href;
    link.textContent = text;
    made.append(link);
    return made;
  };

  const callRow = (one) => {
    const row = document.createElement("tr");
    row.dataset.began = one.began_us;
    const time = linked("th", "time", one.began.slice(0, 19), one.href);
    time.firstChild.append(cell("span", "ms", one.began.slice(19)));
    time.scope = "row";
    const what = cell("td", "state " + one.mark, one.state);
    if (one.kind) what.append(" ", cell("span", "dim", one.kind));
    row.append(
      time, what, cell("td", "wide number", one.status), cell("td", "user", one.from), cell("td", "user", one.to),
      cell("td", "medium number", one.messages), cell("td", "medium number", one.duration),
      cell("td", "wide number", one.delay), cell("td", "wide address", one.src), cell("td", "wide address", one.dst),
      cell("td", "wider agent", one.agent), cell("td", "wider call-id", one.call_id),
    );
    return row;
  };

  const showCall = (one) => {
    const made = callRow(one);
    const old = rows.get(one.href);
    rows.set(one.href, made);
    if (old) {
      old.replaceWith(made);
      return;
    }
    let next = calls.firstElementChild;
    while (next && Number(next.dataset.began) > one.began_us) next = next.nextElementSibling;
    calls.insertBefore(made, next);
    if (calls.rows.length > MOST) {
      const last = calls.lastElementChild;
      rows.delete(last.querySelector("a").getAttribute("href"));
      last.remove();
    }
  };

  const messageRow = (one) => {
    const row = document.createElement("tr");
    row.append(
      linked("td", "time", one.time, one.href), cell("td", "state " + one.mark, one.what), cell("td", "user", one.from),
      cell("td", "user", one.to), cell("td", "medium address", one.src), cell("td", "medium address", one.dst),
      cell("td", "wide", one.proto), cell("td", "wide", one.node),
    );
    return row;
  };

  const take = (event) => {
    for (const one of event.rows) showCall(one);
    for (const href of event.gone) {
      const row = rows.get(href);
      if (row) row.remove();
      rows.delete(href);
    }
    const fresh = event.messages.slice(-MOST).map(messageRow).reverse();
    messages.prepend(...fresh);
    while (messages.rows.length > MOST) messages.lastElementChild.remove();
    seen += event.messages.length;
    lost += event.lost;
    if (lost) {
      lostNote.hidden = false;
      lostNote.textContent = `${lost} events came faster than this page could take them. They are stored all the same.`;
    }
  };

  const tell = () => {
    const waiting = held.length ? `, ${heldSize} more wait` : "";
    count.textContent = `${seen} messages since this page was opened${waiting}`;
  };
  const isPaused = () => pause.getAttribute("aria-pressed") === "true";
  const say = (text) => {
    state.textContent = text; // a screen reader reads it aloud, so it is not changed with each message
    tell();
  };

  const source = new EventSource(calls.dataset.events);
  source.onopen = () => say(isPaused() ? "Paused" : "Following");
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) say("The server does not answer any more.");
    else say("The connection was lost; trying again.");
  };
  source.addEventListener("end", () => {
    source.close();
    say("The server has ended.");
  });
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (isPaused()) {
      held.push(event);
      heldSize += event.messages.length;
      if (held.length > 1000) {
        const dropped = held.shift();
        heldSize -= dropped.messages.length;
        lost += dropped.rows.length + dropped.messages.length;
      }
    } else {
      take(event);
    }
    tell();
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    const paused = isPaused();
    pause.setAttribute("aria-pressed", String(!paused));
    pause.textContent = paused ? "Pause" : "Go on";
    if (paused) {
      held.forEach(take);
      held = [];
      heldSize = 0;
    }
    say(paused ? "Following" : "Paused");
  });
  addEventListener("pagehide", () => source.close());
})();
