//! The annotation `vicino.dev/plain-ports` of a pod: text → ports, and what of it is none; looks at no pod.

use std::collections::BTreeSet;

use super::PLAIN_PORTS_MAX;

/// Characters of a text that is no port which a message repeats.
const SHOWN_MAX: usize = 32;

/// What the annotation says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlainPorts {
    /// Ports, sorted, at most [`PLAIN_PORTS_MAX`].
    pub ports: Vec<i32>,
    /// What is wrong, and what would be right. What is no port opens nothing, and the others hold all the same.
    pub problem: Option<String>,
}

impl PlainPorts {
    /// Of the annotation's text. An empty one says nothing, and so does nothing between two commas.
    pub fn read(text: &str) -> Self {
        let (mut ports, mut wrong) = (BTreeSet::new(), None);
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse::<u16>() {
                Ok(port) if port > 0 => drop(ports.insert(i32::from(port))),
                _ => drop(wrong.get_or_insert(part)),
            }
        }
        let problem = match wrong {
            Some(part) => {
                let shown: String = part.chars().take(SHOWN_MAX).collect();
                Some(format!(
                    "{shown:?} is no port: write numbers from 1 to 65535, separated by commas, as in 9090,8443"
                ))
            }
            None if ports.len() > PLAIN_PORTS_MAX => Some(format!(
                "{} ports are named, and the {PLAIN_PORTS_MAX} lowest are taken: name fewer, or give their Services a MeshRoute with spec.identity.mode: Permissive",
                ports.len()
            )),
            None => None,
        };
        Self { ports: ports.into_iter().take(PLAIN_PORTS_MAX).collect(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_port_opens_nothing_and_is_told() {
        let read = |text: &str| {
            let PlainPorts { ports, problem } = PlainPorts::read(text);
            (ports, problem.unwrap_or_default())
        };
        let wrong = |part: &str| {
            format!("{part} is no port: write numbers from 1 to 65535, separated by commas, as in 9090,8443")
        };
        for (text, ports, problem) in [
            ("", vec![], String::new()),
            (" 9090, 8443 ,9090,", vec![8443, 9090], String::new()),
            ("9090;8443", vec![], wrong("\"9090;8443\"")),
            ("metrics,9090", vec![9090], wrong("\"metrics\"")),
            ("0,70000,80", vec![80], wrong("\"0\"")),
            ("-1", vec![], wrong("\"-1\"")),
        ] {
            assert_eq!(read(text), (ports, problem), "{text}");
        }
        let many: Vec<String> = (1..=PLAIN_PORTS_MAX + 1).map(|port| port.to_string()).collect();
        let (ports, problem) = read(&many.join(","));
        assert_eq!(ports.len(), PLAIN_PORTS_MAX);
        assert!(problem.starts_with("65 ports are named, and the 64 lowest are taken"), "{problem}");
        assert!(read(&"x".repeat(10_000)).1.len() < 200, "whatever stands there");
    }
}
