"use strict";
// Elements are made here and hold text only: nothing is ever read as HTML.

const $ = (id) => document.getElementById(id);

/** Make an element with properties and children; strings become text. */
function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== ""));
  return made;
}

function button(text, action, properties = {}) {
  const made = element("button", { type: "button", className: "quiet", ...properties }, text);
  made.addEventListener("click", action);
  return made;
}

/** An element for text of people or models, in its own direction and language. */
function passage(text) {
  return setLanguage(element("div", { className: "text", dir: "auto" }, text), text);
}

/** Only Hangul says for certain which language a text has; no other one is taken for English. */
function setLanguage(node, text) {
  node.lang = /\p{Script=Hangul}/u.test(text) ? "ko" : "";
  return node;
}

/**
 * A text area as high as its text. The mirror behind it has the same text and the same font, and
 * so gives the height; its second part can be coloured as what the model has written.
 */
function growingField(label, placeholder) {
  const mirror = element("div", { className: "mirror", dir: "auto", ariaHidden: "true" });
  const field = element("textarea", { id: "field", dir: "auto", rows: 1, placeholder });
  field.setAttribute("aria-label", label);
  field.setAttribute("enterkeyhint", "send");
  const box = element("div", { className: "grow" }, mirror, field);
  const old = element("span", {});
  const fresh = element("span", { className: "fresh" });
  mirror.append(old, fresh, "\u200b"); // a last line without letters has a height too
  function show(text, from = text.length) {
    old.textContent = text.slice(0, from);
    fresh.textContent = text.slice(from);
    if (field.value !== text) field.value = text;
    setLanguage(box, text);
  }
  field.addEventListener("input", () => show(field.value));
  return { box, field, show };
}

let announcing = 0;

/** Tell a screen reader, also when the last words were the same. */
function announce(text) {
  clearTimeout(announcing);
  $("status").textContent = "";
  announcing = setTimeout(() => ($("status").textContent = text), 50);
}

const sentences = Intl.Segmenter && new Intl.Segmenter(undefined, { granularity: "sentence" });

/** Read a text to a screen reader as its sentences are finished, each once. */
class Speaker {
  constructor() {
    this.rest = "";
    $("said").replaceChildren();
  }

  add(text) {
    this.rest += text;
    if (!sentences) return; // an older browser: all at the end
    const found = [...sentences.segment(this.rest)];
    for (const { segment } of found.slice(0, -1)) this.say(segment);
    this.rest = found.at(-1)?.segment ?? "";
  }

  end() {
    this.say(this.rest);
    this.rest = "";
  }

  say(text) {
    if (text.trim()) $("said").append(element("p", { dir: "auto" }, text));
  }
}

/** Put a text on the clipboard, and say so on the button for a moment. */
async function copy(text, source) {
  const done = (await copyText(text)) ? "Copied" : "The browser does not allow copying";
  announce(done);
  source.textContent = done;
  setTimeout(() => (source.textContent = "Copy"), 1500);
}

function copyButton(text) {
  return button("Copy", (event) => copy(text, event.currentTarget));
}

/** Put a text on the clipboard; false when the browser refuses. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // plain HTTP from another machine has no clipboard
  }
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const field = element("textarea", { className: "hidden-text", value: text, ariaHidden: "true" });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}
