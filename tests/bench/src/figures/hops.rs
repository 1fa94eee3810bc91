//! Repetitions of the opening of hops, reduced to medians and minima; pure.

use serde::Serialize;

use super::Spread;
use crate::load::hops::{Handshake, Opened, Opening};
use crate::peers::{Mode, Peer};

/// One peer's hops in one repetition: figures, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HopSample {
    /// Who.
    pub peer: Peer,
    /// What lies between the proxies.
    pub mode: Mode,
    /// Which repetition, from 1.
    pub repetition: u32,
    /// What was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened: Option<Opened>,
    /// Why nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Hops of one peer that are opened in one way, over all repetitions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HopSummary {
    /// Who.
    pub peer: Peer,
    /// How.
    pub handshake: Handshake,
    /// So many a second.
    pub per_second: Option<Spread>,
    /// CPU seconds of L2 per 1,000.
    pub listener_cpu: Option<Spread>,
    /// CPU seconds of the dialler, which is this program's, per 1,000.
    pub dialler_cpu: Option<Spread>,
    /// Resident KiB of L2 for each that is open; none where that differs by nothing from one that was opened in full.
    pub kib: Option<Spread>,
}

/// Reduces what a peer gave; the ways that it has, in order.
pub fn summarise(peer: Peer, samples: &[HopSample]) -> Vec<HopSummary> {
    let of = |(mode, handshake)| {
        let own = samples.iter().filter(|s| s.peer == peer && s.mode == mode);
        let own: Vec<&Opened> = own.filter_map(|s| s.opened.as_ref()).collect();
        let openings = own.iter().flat_map(|o| &o.openings).filter(|o| o.handshake == handshake);
        let openings: Vec<&Opening> = openings.collect();
        let spread = |of: &dyn Fn(&Opening) -> f64| Spread::of(openings.iter().map(|o| of(o)));
        let kib = Spread::of(own.iter().map(|o| each_kib(o)))?;
        Some(HopSummary {
            peer,
            handshake,
            per_second: spread(&|o| o.per_second),
            listener_cpu: spread(&|o| o.listener_cpu),
            dialler_cpu: spread(&|o| o.dialler_cpu),
            kib: (handshake != Handshake::Resumed).then_some(kib),
        })
    };
    let ways =
        [(Mode::Clear, Handshake::None), (Mode::Mtls, Handshake::Full), (Mode::Mtls, Handshake::Resumed)];
    ways.into_iter().filter_map(of).collect()
}

fn each_kib(opened: &Opened) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "KiB of resident memory stay far below 2^52")]
    let more = opened.open_kib.saturating_sub(opened.start_kib) as f64;
    more / f64::from(opened.open.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(mode: Mode, repetition: u32, per_second: f64) -> HopSample {
        let opening = |handshake, factor| Opening {
            handshake,
            per_second: per_second * factor,
            listener_cpu: 0.5,
            dialler_cpu: 0.25,
        };
        let openings = match mode {
            Mode::Clear => vec![opening(Handshake::None, 1.0)],
            Mode::Mtls => vec![opening(Handshake::Full, 1.0), opening(Handshake::Resumed, 2.0)],
        };
        let opened = Opened { start_kib: 1000, open_kib: 4000, open: 100, openings };
        HopSample { peer: Peer::Vicino, mode, repetition, opened: Some(opened), failed: None }
    }

    #[test]
    fn every_way_to_open_a_hop_has_its_own_medians() {
        let samples =
            [sample(Mode::Clear, 1, 900.0), sample(Mode::Mtls, 1, 100.0), sample(Mode::Mtls, 2, 300.0)];
        let summaries = summarise(Peer::Vicino, &samples);
        let ways: Vec<_> =
            summaries.iter().map(|s| (s.handshake, s.per_second.map(|x| x.median), s.kib)).collect();
        let kib = Some(Spread { median: 30.0, min: 30.0 });
        let expected = [
            (Handshake::None, Some(900.0), kib),
            (Handshake::Full, Some(200.0), kib),
            (Handshake::Resumed, Some(400.0), None),
        ];
        assert_eq!(ways, expected);
        assert!(summarise(Peer::Envoy, &samples).is_empty());
    }
}
