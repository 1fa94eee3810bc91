//! Shows the answer of the sample application as the tree of calls that it came from; makes no calls.

use std::fmt::Write;

use anyhow::{Context, Result};
use vicino_sample::role::{Call, Page};

/// The answer that `vicino-sample call --path` printed, as a tree: each call, its way, and who answered on which node.
pub(super) fn shown(answer: &str) -> Result<String> {
    let (head, body) = answer.split_once("\n\n").context("the answer has no body")?;
    let page: Page = serde_json::from_str(body).with_context(|| format!("not a page: {answer}"))?;
    let path = head.lines().find_map(|line| line.strip_prefix("vicino-path: "));
    let mut text = String::new();
    line(&mut text, 1, "web", path, &page);
    for call in &page.calls {
        add(&mut text, 2, call);
    }
    let _ = writeln!(text, "  “{}”", page.text);
    Ok(text)
}

fn add(text: &mut String, depth: usize, call: &Call) {
    let service = call.url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let Some(page) = &call.page else {
        let why = call.error.as_deref().unwrap_or("no answer");
        let _ = writeln!(text, "{}{service}: failed, {why}", "  ".repeat(depth));
        return;
    };
    line(text, depth, service, call.path.as_deref(), page);
    for call in &page.calls {
        add(text, depth + 1, call);
    }
}

fn line(text: &mut String, depth: usize, service: &str, path: Option<&str>, page: &Page) {
    let indented = format!("{}{service}", "  ".repeat(depth));
    let path = path.unwrap_or_default().replace(' ', " → ");
    let _ = writeln!(text, "{indented:<18} {:<24} on {}   {path}", page.pod, page.node);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_calls() {
        let body = r#"{"service":"web","pod":"web-1","node":"node1","text":"hi","calls":[
            {"url":"http://quotes/?number=1","status":200,"path":"node1 node2","page":{"service":"quotes","pod":"quotes-1",
             "node":"node2","text":"q","calls":[{"url":"http://ratings/","status":503,"error":"no-endpoint"}]}}]}"#;
        let answer = format!("200 OK\nx-pod: web-1\nvicino-path: node3 node1\n\n{body}");
        let tree = [
            "  web              web-1                    on node1   node3 → node1",
            "    quotes         quotes-1                 on node2   node1 → node2",
            "      ratings: failed, no-endpoint",
            "  “hi”",
        ];
        assert_eq!(shown(&answer).unwrap().lines().collect::<Vec<_>>(), tree);
    }
}
