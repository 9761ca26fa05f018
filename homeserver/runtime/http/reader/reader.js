// Renders /docs/openapi.json. Text reaches the page only as text nodes, never as HTML.
"use strict";

const MAX_DEPTH = 6;

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function resolve(schema, spec) {
  if (!schema || !schema.$ref) return schema || {};
  return spec.components.schemas[schema.$ref.split("/").pop()] || {};
}

function typeOf(schema, spec) {
  if (!schema) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.anyOf) return schema.anyOf.map((part) => typeOf(part, spec)).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items, spec)}`;
  return schema.type || "any";
}

function limitsOf(schema) {
  const words = { minimum: "at least", maximum: "at most", minLength: "length from", maxLength: "length up to" };
  return Object.keys(words).filter((key) => key in schema).map((key) => `${words[key]} ${schema[key]}`).join(", ");
}

function objectsIn(schema, spec) {
  const found = resolve(schema, spec);
  if (found.properties) return found;
  const inner = [found.items, ...(found.anyOf || []), found.additionalProperties];
  for (const part of inner) {
    if (part && typeof part === "object") {
      const object = objectsIn(part, spec);
      if (object) return object;
    }
  }
  return null;
}

function schemaView(schema, spec, depth = 0) {
  const object = objectsIn(schema, spec);
  if (!object || depth > MAX_DEPTH) return element("p", {}, element("code", {}, typeOf(schema, spec)));
  const required = new Set(object.required || []);
  const rows = Object.entries(object.properties).map(([name, field]) => fieldRow(name, field, required.has(name), spec, depth));
  return table(["Field", "Type", "About"], rows);
}

function fieldRow(name, field, required, spec, depth) {
  const about = element("td", {}, [required ? "required" : "", field.description || "", limitsOf(field)].filter(Boolean).join("; "));
  if (objectsIn(field, spec) && depth < MAX_DEPTH) {
    const inner = element("details", {}, element("summary", {}, "fields"));
    inner.addEventListener("toggle", () => {
      if (inner.open && inner.children.length === 1) inner.append(element("div", {}, schemaView(field, spec, depth + 1)));
    });
    about.append(inner);
  }
  return element("tr", {}, element("th", { scope: "row" }, element("code", {}, name)), element("td", {}, typeOf(field, spec)), about);
}

function table(titles, rows) {
  const head = element("tr", {}, ...titles.map((title) => element("th", { scope: "col" }, title)));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function parameterTable(parameters, spec) {
  return table(["Parameter", "In", "Type", "About"], parameters.map((parameter) => element(
    "tr", {},
    element("th", { scope: "row" }, element("code", {}, parameter.name)),
    element("td", {}, parameter.in),
    element("td", {}, typeOf(parameter.schema, spec)),
    element("td", {}, [parameter.required ? "required" : "", parameter.description || "", limitsOf(parameter.schema)].filter(Boolean).join("; ")),
  )));
}

function contentView(content, spec) {
  return Object.entries(content || {}).map(([type, { schema }]) => element(
    "div", {}, element("p", {}, element("code", {}, type)), schema ? schemaView(schema, spec) : null,
  ));
}

function badges(operation) {
  const schemes = (operation.security || []).map((one) => Object.keys(one)[0]);
  const names = [];
  if (schemes.length === 0) names.push("no token needed");
  else if (schemes.includes(undefined)) names.push("token optional");
  else names.push(schemes[0] === "server" ? "signed by a server" : "access token");
  if (operation["x-guests"]) names.push("guests too");
  if (operation["x-rate-limit"]) names.push(`rate limit: ${operation["x-rate-limit"]}`);
  if (operation.deprecated) names.push("deprecated");
  return element("p", {}, ...names.map((name) => element("span", { class: "badge" }, name)));
}

function operationBody(operation, spec) {
  const body = element("div", {}, badges(operation));
  if (operation.description) body.append(element("p", {}, operation.description));
  if (operation.externalDocs) body.append(element("p", {}, element("a", { href: operation.externalDocs.url, rel: "noreferrer" }, "Specification")));
  if (operation["x-aliases"]) body.append(element("p", {}, "Also at ", element("code", {}, operation["x-aliases"].join(" "))));
  if (operation.parameters.length) body.append(element("h4", {}, "Parameters"), parameterTable(operation.parameters, spec));
  if (operation.requestBody) {
    body.append(element("h4", {}, operation.requestBody.required ? "Body" : "Body (optional)"), ...contentView(operation.requestBody.content, spec));
  }
  body.append(element("h4", {}, "Answers"));
  for (const [status, answer] of Object.entries(operation.responses)) {
    body.append(element("p", {}, element("strong", {}, status), ` ${answer.description}`));
    if (status === "200") body.append(...contentView(answer.content, spec));
  }
  return body;
}

function operationView(method, path, operation, spec) {
  const summary = element(
    "summary", {}, element("span", { class: "method" }, method), element("code", {}, path), " ", operation.summary || "",
  );
  const view = element("details", { id: operation.operationId, class: operation.deprecated ? "deprecated" : "" }, summary);
  view.dataset.words = `${method} ${path} ${operation.summary || ""}`.toLowerCase();
  view.addEventListener("toggle", () => {
    if (!view.open || view.children.length > 1) return;
    view.append(operationBody(operation, spec));
    history.replaceState(null, "", `#${operation.operationId}`);
  });
  return view;
}

function sectionsOf(spec) {
  const sections = new Map();
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = (operation.tags || ["Other"])[0];
      if (!sections.has(tag)) sections.set(tag, []);
      sections.get(tag).push(operationView(method.toUpperCase(), path, operation, spec));
    }
  }
  return sections;
}

function applySearch(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const view of document.querySelectorAll("main > section > details")) {
    view.hidden = !words.every((word) => view.dataset.words.includes(word));
    shown += view.hidden ? 0 : 1;
  }
  for (const section of document.querySelectorAll("main > section")) {
    section.hidden = !section.querySelector(":scope > details:not([hidden])");
  }
  document.getElementById("count").textContent = `${shown} endpoints`;
}

function openLinked() {
  const view = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!view || view.tagName !== "DETAILS") return;
  view.open = true;
  view.scrollIntoView();
}

async function main() {
  const answer = await fetch("/docs/openapi.json");
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const spec = await answer.json();
  document.getElementById("about").textContent = `${spec.info.title} ${spec.info.version}: ${spec.info.summary || ""}`;
  let number = 0;
  for (const [tag, views] of sectionsOf(spec)) {
    const id = `section-${(number += 1)}`;
    document.getElementById("tags").append(element("li", {}, element("a", { href: `#${id}` }, tag)));
    document.getElementById("operations").append(element("section", { "aria-labelledby": id }, element("h2", { id }, tag), ...views));
  }
  const search = document.getElementById("search");
  search.addEventListener("input", () => applySearch(search.value));
  applySearch("");
  openLinked();
  window.addEventListener("hashchange", openLinked);
}

main().catch((error) => {
  document.getElementById("about").textContent = `The document could not be loaded: ${error.message}`;
});
