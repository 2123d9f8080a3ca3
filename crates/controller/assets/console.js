// The one script of our own. Every page works without it: it copies, jumps, and asks for what has changed.
(() => {
  "use strict";
  const $ = (selector) => document.querySelector(selector);

  // Copy buttons: the text of the code beside them.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const code = button.closest(".code")?.querySelector("code");
    const label = button.querySelector("span");
    if (!code || !label) return;
    const text = [...code.childNodes].filter((n) => !n.classList?.contains("c")).map((n) => n.textContent).join("");
    try {
      await navigator.clipboard.writeText(text.trim() + "\n");
    } catch {
      getSelection().selectAllChildren(code);
      label.textContent = "Press Ctrl C";
      return;
    }
    button.dataset.done = "";
    label.textContent = "Copied";
    setTimeout(() => { delete button.dataset.done; label.textContent = "Copy"; }, 2000);
  });

  // Keys: Ctrl K or / for the palette; in it, arrows walk, and from an entry the letter of any goes there.
  const palette = $("#palette");
  const inField = (element) => element?.matches?.("input, textarea, select, [contenteditable]");
  document.addEventListener("keydown", (event) => {
    if (!palette?.showPopover || event.isComposing) return;
    const letter = event.key.toLowerCase();
    const isCommand = event.ctrlKey || event.metaKey;
    if ((letter === "k" && isCommand) || (letter === "/" && !inField(event.target))) {
      event.preventDefault();
      palette.togglePopover();
      if (palette.matches(":popover-open")) palette.querySelector("input").focus();
      return;
    }
    if (!palette.matches(":popover-open")) return;
    if (event.key === "Escape") {
      // A field for a search would only be emptied by it.
      event.preventDefault();
      palette.hidePopover();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const entries = [...palette.querySelectorAll("input, li a")];
      const next = entries.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
      event.preventDefault();
      entries[(next + entries.length) % entries.length]?.focus();
    } else if (event.key === "Tab") {
      // What is behind it is not reached while it is open.
      const stops = [...palette.querySelectorAll("a[href], button, input")];
      const [end, start] = event.shiftKey ? [stops[0], stops.at(-1)] : [stops.at(-1), stops[0]];
      if (document.activeElement !== end && palette.contains(document.activeElement)) return;
      event.preventDefault();
      start.focus();
    } else if (!isCommand && !event.altKey && !inField(event.target)) {
      const entry = [...palette.querySelectorAll("[aria-keyshortcuts]")].find((of) => of.ariaKeyShortcuts === letter);
      if (!entry) return;
      event.preventDefault();
      entry.click();
    }
  });

  // A form's summary of errors is where the eye and the reader should be.
  $("[data-focus]")?.focus();

  // A part that is replaced while the focus is in it: the focus goes to what leads to the same place in the new one.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const [part, at] = [event.detail.target, document.activeElement];
    if (!event.detail.shouldSwap || !part.id) return;
    // A status is read aloud when it is put in: the same words stay as they are.
    const coming = () => new DOMParser().parseFromString(event.detail.serverResponse, "text/html").getElementById(part.id);
    if (part.matches("[role=status]") && coming()?.textContent === part.textContent) {
      event.detail.swapOverride = "none";
      return;
    }
    if (part === at || !part.contains(at)) return;
    const alike = (within) => [...within.querySelectorAll("a, button, input, select, summary, [tabindex]")].filter((other) =>
      other.tagName === at.tagName && other.name === at.name && other.getAttribute("href") === at.getAttribute("href"));
    const index = alike(part).indexOf(at);
    const back = () => {
      const now = document.getElementById(part.id);
      if (!now || document.activeElement !== document.body) return;
      const found = alike(now);
      (found[index] ?? found.at(-1))?.focus({ preventScroll: true });
    };
    document.addEventListener("htmx:afterSwap", back, { once: true });
  });

  // Something changed on the server: parts that are live ask for themselves again, and the banner with the gauge. Only a page
  // that is seen listens: a browser has six connections to a host for all its tabs.
  const { state, standing } = document.body.dataset;
  if (state && window.EventSource && window.htmx) {
    // What the page was made of: something may have changed before anybody listened.
    const last = { state, standing };
    const asks = { state: "live", standing: "standing" };
    let source, again;
    const told = ({ type, data }) => {
      if (data !== last[type]) htmx.trigger(document.body, asks[type]);
      last[type] = data;
    };
    const stop = () => { source?.close(); clearTimeout(again); };
    const listen = () => {
      stop();
      const own = source = new EventSource("/events");
      for (const type in asks) own.addEventListener(type, told);
      own.addEventListener("error", () => {
        // Refused, for now or since the session ended: the browser does not try again. Not all pages at once.
        if (own === source && own.readyState === EventSource.CLOSED) again = setTimeout(listen, 30000 + Math.random() * 30000);
      });
    };
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return stop();
      for (const type in asks) htmx.trigger(document.body, asks[type]);
      listen();
    });
    addEventListener("pagehide", stop);
    if (!document.hidden) listen();
  }
})();
