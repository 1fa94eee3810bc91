//! One peer's L2 by itself, once: what its hops cost, with a dialler of ours, the same for every peer.

use clap::ValueEnum;

use super::{Bench, MeasureError, Standing};
use crate::load::hops::Opened;
use crate::peers::{Leg, Mode, Peer, Role};
use crate::process::{CommandLine, output};

const STEP: &str = "the opening of hops";

impl Bench<'_> {
    /// Measures the hops of `peer`; none without proxies.
    pub fn hops(&self, peer: Peer, mode: Mode) -> Result<Option<Opened>, MeasureError> {
        let Some(wire) = peer.wire() else { return Ok(None) };
        let folder = self.nodes.folder.join(format!("hops-{peer}"));
        // A proxy whose files cannot be written says so itself.
        let _ = std::fs::create_dir_all(&folder);
        let certificates = self.certificates(mode);
        let leg = Leg::l2(certificates);
        let mut standing = Standing { all: Vec::new(), proxies: Vec::new() };
        self.start_proxy(peer, &leg, &folder, &mut standing)?;
        let wire = wire.to_possible_value().expect("no wire is hidden").get_name().to_owned();
        let mut arguments = vec!["hops".to_owned(), "--address".to_owned(), leg.listen.to_string()];
        arguments.extend(["--wire".to_owned(), wire]);
        let (open, count) = (self.options.hops, self.options.handshakes);
        let listener = standing.proxies[0];
        for (name, number) in [("--listener", listener), ("--open", open), ("--count", count)] {
            arguments.extend([name.to_owned(), number.to_string()]);
        }
        if let Some(certificates) = certificates {
            arguments.extend(["--certificates".to_owned(), certificates.folder().display().to_string()]);
        }
        let opened = output(&CommandLine::new(self.own, arguments), self.namespace(Role::L1));
        let ended = standing.ended();
        let said = standing.last_words();
        drop(standing);
        let _ = std::fs::remove_dir_all(&folder);
        match (opened, ended) {
            (_, Some(ended)) => Err(MeasureError::Ended(ended)),
            (Err(e), None) => Err(MeasureError::Ended(format!("{e}; {said}"))),
            (Ok(text), None) => {
                serde_json::from_str(&text).map(Some).map_err(|e| MeasureError::Figures(STEP, e))
            }
        }
    }
}
