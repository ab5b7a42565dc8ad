"use strict";
// The sampling settings of each kind of model, and their fields.

const FIELDS = [
  {
    name: "temperature",
    label: "Temperature",
    help: "0 always takes the likeliest token; higher is bolder.",
    range: { min: 0, max: 2, step: 0.05 },
  },
  {
    name: "top_p",
    label: "Top-p",
    help: "Chooses among the likeliest tokens that have this share of the probability.",
    range: { min: 0.05, max: 1, step: 0.05 },
  },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    help: "Above 1, tokens that were used before become less likely.",
    range: { min: 1, max: 2, step: 0.05 },
  },
  {
    name: "top_k",
    label: "Top-k",
    help: "Chooses among so many of the likeliest tokens. Empty: all.",
    number: { min: 1, max: 1000000 },
  },
  {
    name: "max_tokens",
    label: "Token limit",
    help: "Ends the text after so many tokens (parts of words). Empty: as many as fit.",
    number: { min: 1, max: 1000000 },
  },
  {
    name: "seed",
    label: "Seed",
    help: "The same number gives the same text again. Empty: another text each time.",
    number: { min: 0, max: 2147483647 },
  },
];

const EMPTY = { top_k: null, max_tokens: null, seed: null };
const DEFAULTS = {
  story: { temperature: 0.8, top_p: 0.95, repetition_penalty: 1, ...EMPTY },
  dialog: { temperature: 0.7, top_p: 0.9, repetition_penalty: 1.1, ...EMPTY },
  translation: { temperature: 0, top_p: 1, repetition_penalty: 1, ...EMPTY },
};

const chosen = Object.fromEntries(KINDS.map((kind) => [kind, recallSettings(kind)]));

function recallSettings(kind) {
  const values = { ...DEFAULTS[kind] };
  const kept = recall("local", `fairtale.settings.${kind}`);
  for (const { name, range, number } of FIELDS) {
    const value = kept?.[name];
    const { min, max } = range ?? number;
    if (Number.isFinite(value) && value >= min && value <= max) values[name] = value;
    if (number && value === null) values[name] = null;
  }
  return values;
}

/** Fill `#fields` with the settings of a kind of models; they are kept when they change. */
function showSettings(kind, model) {
  $("fields").replaceChildren(...FIELDS.map((field) => settingField(kind, field, model)));
}

function settingField(kind, { name, label, help, range, number }, model) {
  const value = chosen[kind][name];
  const input = element("input", {
    id: `setting-${name}`,
    type: range ? "range" : "number",
    ...(range ?? { ...number, step: 1, inputMode: "numeric", placeholder: "–" }),
    value: value ?? "",
  });
  if (name === "max_tokens" && model?.max_new_tokens) input.max = model.max_new_tokens;
  input.setAttribute("aria-describedby", `help-${name}`);
  const shown = element("output", { className: "value" }, range ? value.toFixed(2) : "");
  shown.setAttribute("for", input.id);
  const error = element("p", { className: "error", id: `error-${name}` });
  const check = () => {
    error.textContent = input.validationMessage;
    input.setAttribute("aria-invalid", String(!input.validity.valid));
    return input.validity.valid;
  };
  check(); // what another model allowed may be too much for this one
  input.addEventListener("input", () => {
    if (!check()) return;
    chosen[kind][name] = input.value === "" ? null : Number(input.value);
    if (range) shown.textContent = Number(input.value).toFixed(2);
    keep("local", `fairtale.settings.${kind}`, chosen[kind]);
  });
  const title = element("label", { htmlFor: input.id }, label);
  return element(
    "div",
    { className: "setting" },
    element("div", { className: range ? "row" : "" }, title, range ? shown : ""),
    input,
    element("p", { className: "muted", id: `help-${name}` }, help),
    error,
  );
}

/** The first field whose value breaks its rule, or undefined. */
function wrongSetting() {
  return [...$("fields").querySelectorAll("input")].find((input) => !input.validity.valid);
}

/** The settings as a request has them: what is empty is left to the service. */
function samplingOptions(kind) {
  return Object.fromEntries(Object.entries(chosen[kind]).filter(([, value]) => value !== null));
}

function resetSettings(kind, model) {
  chosen[kind] = { ...DEFAULTS[kind] };
  forget("local", `fairtale.settings.${kind}`);
  showSettings(kind, model);
}
