// Passkeys: the one thing on these pages that needs a script. Everything else is a link or a form.
"use strict";
(() => {
  const toBytes = (text) =>
    Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const toText = (buffer) =>
    btoa(Array.from(new Uint8Array(buffer), (b) => String.fromCharCode(b)).join(""))
      .replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

  const say = (form, message) => {
    const place = form.querySelector("[data-says]");
    place.querySelector("span").textContent = message;
    place.hidden = false;
  };

  const ask = async (address, body) => {
    const answer = await fetch(address, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      credentials: "same-origin",
    });
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(said.detail || `The controller answered ${answer.status}.`);
    return said;
  };

  const make = async (options) => {
    options.challenge = toBytes(options.challenge);
    options.user.id = toBytes(options.user.id);
    for (const held of options.excludeCredentials) held.id = toBytes(held.id);
    const made = await navigator.credentials.create({ publicKey: options });
    return {
      clientDataJSON: toText(made.response.clientDataJSON),
      attestationObject: toText(made.response.attestationObject),
    };
  };

  const prove = async (options) => {
    options.challenge = toBytes(options.challenge);
    const proof = await navigator.credentials.get({ publicKey: options });
    return {
      id: toText(proof.rawId),
      clientDataJSON: toText(proof.response.clientDataJSON),
      authenticatorData: toText(proof.response.authenticatorData),
      signature: toText(proof.response.signature),
      userHandle: proof.response.userHandle ? toText(proof.response.userHandle) : null,
    };
  };

  const why = (error) => {
    if (error.name === "NotAllowedError") return "No passkey was used: it was cancelled, or took too long.";
    if (error.name === "InvalidStateError") return "This device has a passkey for your account already.";
    return error.message;
  };

  for (const form of document.querySelectorAll("form[data-passkey]")) {
    // It is there from the beginning, so that nothing moves when this runs; where it would do nothing it goes.
    if (!window.PublicKeyCredential) {
      form.hidden = true;
      continue;
    }
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = form.querySelector("button");
      button.disabled = true;
      try {
        const fields = Object.fromEntries(new FormData(form));
        const { options } = await ask(`${form.getAttribute("action")}/options`, fields);
        const answer = form.dataset.passkey === "make" ? await make(options) : await prove(options);
        const { next } = await ask(form.getAttribute("action"), { ...fields, answer });
        location.assign(next);
      } catch (error) {
        say(form, why(error));
        button.disabled = false;
      }
    });
  }
})();
