use super::*;

#[test]
fn usage_is_shown_as_the_user_called_it() {
    let usage = |program: &str| named(&[OsString::from(program)]).render_usage().to_string();
    assert_eq!(usage("/usr/bin/vicino"), "Usage: vicino [OPTIONS] <COMMAND>");
    assert_eq!(usage("/home/me/.krew/bin/kubectl-vicino"), "Usage: kubectl vicino [OPTIONS] <COMMAND>");
}

#[test]
fn an_error_names_each_cause_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot read x")]
    struct Outer(#[source] Inner);
    #[derive(Debug, thiserror::Error)]
    #[error("refused: {0}")]
    struct Inner(#[source] std::fmt::Error);
    let error = Outer(Inner(std::fmt::Error));
    assert_eq!(chain(&error), format!("cannot read x: refused: {}", std::fmt::Error));
}

#[test]
fn there_is_a_completion_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let line = ["vicino", "completion", shell].map(OsString::from);
        let mut command = named(&line);
        let matches = command.try_get_matches_from_mut(line).unwrap();
        let text = answer(&Arguments::from_arg_matches(&matches).unwrap(), command).unwrap().text;
        assert!(text.contains("kubeconfig") && text.contains("routes"), "{shell}");
    }
}
