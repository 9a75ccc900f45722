//! The reference page of the API, made from its description, and the pages of
//! the problem codes: plain HTML without a script, readable anywhere.

use insula_problem::Code;
use rust_embed::RustEmbed;
use serde_json::Value;
use utoipa::openapi::OpenApi;

#[derive(RustEmbed)]
#[folder = "../../docs/problems"]
#[include = "*.md"]
struct ProblemPages;

/// The page of a problem code, as Markdown.
#[must_use]
pub fn problem_page(code: Code) -> Option<String> {
    let file = ProblemPages::get(&format!("{code}.md"))?;
    String::from_utf8(file.data.into_owned()).ok()
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2430}
code,pre{font:14px/1.5 ui-monospace,monospace}h2{margin-top:2.5rem;border-bottom:1px solid #d5dae3}
.m{display:inline-block;min-width:4.5rem;font-weight:700}.get{color:#0b6e4f}.post{color:#1f5fbf}.put,.patch{color:#9a6700}
.delete{color:#b3261e}article{border:1px solid #d5dae3;border-radius:8px;padding:.6rem 1rem;margin:.8rem 0}
summary{cursor:pointer}table{border-collapse:collapse}td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}
p.d{margin:.4rem 0;color:#465063}
@media(prefers-color-scheme:dark){body{background:#14181f;color:#dfe5ee}article,h2{border-color:#39424f}p.d{color:#a9b4c4}
.get{color:#5fd3a8}.post{color:#86b4ff}.put,.patch{color:#e3b341}.delete{color:#ff8a80}a{color:#86b4ff}}";

/// The page.
#[must_use]
pub fn page(openapi: &OpenApi) -> String {
    let description = serde_json::to_value(openapi).unwrap_or_default();
    let mut html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>
<title>Insula API</title><style>{STYLE}</style><h1>Insula API {}</h1><p>{}</p>
<p>The same for machines: <a href=/openapi.json>/openapi.json</a> (OpenAPI 3.1).</p>",
        escape(text(&description["info"]["version"])),
        escape(text(&description["info"]["description"])),
    );
    for (tag, endpoints) in by_tag(&description) {
        html.push_str(&format!("<h2>{}</h2>", escape(&tag)));
        for (method, path, endpoint) in endpoints {
            html.push_str(&article(&description, &method, &path, endpoint));
        }
    }
    html.push_str("<h2>problem codes</h2><table>");
    for code in Code::ALL {
        html.push_str(&format!(
            "<tr><td><a href=/docs/problems/{code}><code>{code}</code></a><td>{}<td>{}",
            code.status(),
            escape(code.title())
        ));
    }
    html.push_str("</table></html>");
    html
}

type Endpoint<'a> = (String, String, &'a Value);

fn by_tag(description: &Value) -> Vec<(String, Vec<Endpoint<'_>>)> {
    let mut tags: Vec<(String, Vec<Endpoint<'_>>)> = Vec::new();
    for (path, item) in description["paths"].as_object().into_iter().flatten() {
        for (method, endpoint) in item.as_object().into_iter().flatten() {
            let tag = text(&endpoint["tags"][0]).to_owned();
            let entry = (method.clone(), path.clone(), endpoint);
            match tags.iter_mut().find(|(name, _)| *name == tag) {
                Some((_, endpoints)) => endpoints.push(entry),
                None => tags.push((tag, vec![entry])),
            }
        }
    }
    tags
}

fn article(description: &Value, method: &str, path: &str, endpoint: &Value) -> String {
    let mut html = format!(
        "<article><details><summary><span class='m {method}'>{}</span> <code>{}</code> — {}</summary>",
        method.to_uppercase(),
        escape(path),
        escape(text(&endpoint["summary"]))
    );
    if let Some(more) = endpoint["description"].as_str() {
        html.push_str(&format!("<p class=d>{}</p>", escape(more)));
    }
    let parameters = endpoint["parameters"].as_array().cloned().unwrap_or_default();
    if !parameters.is_empty() {
        html.push_str("<table>");
        for parameter in &parameters {
            html.push_str(&format!(
                "<tr><td><code>{}</code><td>{}<td>{}",
                escape(text(&parameter["name"])),
                escape(text(&parameter["in"])),
                escape(text(&parameter["description"]))
            ));
        }
        html.push_str("</table>");
    }
    let body = &endpoint["requestBody"]["content"]["application/json"]["schema"];
    if let Some(name) = referred(body) {
        html.push_str(&format!("<p>Body: <code>{}</code></p>{}", escape(name), fields(description, name)));
    }
    for (status, response) in endpoint["responses"].as_object().into_iter().flatten() {
        let schema = response["content"].as_object().and_then(|content| content.values().next());
        let name = schema.and_then(|media| referred(&media["schema"])).unwrap_or("");
        html.push_str(&format!("<p>{} <code>{}</code></p>", escape(status), escape(name)));
    }
    html.push_str("</details></article>");
    html
}

fn fields(description: &Value, name: &str) -> String {
    let schema = &description["components"]["schemas"][name];
    let mut html = String::from("<table>");
    for (field, of) in schema["properties"].as_object().into_iter().flatten() {
        html.push_str(&format!(
            "<tr><td><code>{}</code><td>{}",
            escape(field),
            escape(text(&of["description"]))
        ));
    }
    html.push_str("</table>");
    html
}

fn referred(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_endpoint_and_every_code() {
        let html = page(&crate::http::openapi());
        for needle in ["/v1/tenants/{tenant}/suspend", "/v1/doctor", "slug_taken", "CreateTenant"] {
            assert!(html.contains(needle), "{needle}");
        }
        assert_eq!(escape("<a&b>"), "&lt;a&amp;b&gt;");
        assert!(problem_page(Code::SlugTaken).is_some());
    }
}
