//! The way from one authority to another, told as its steps; keys are real, nothing else is needed.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use super::super::ca::ROOT_LIFETIME;
use super::super::reports::Report;
use super::*;

const DAY: Duration = Duration::from_hours(24);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn made(at: SystemTime) -> (Texts, Authority) {
    let texts = Authority::make(at).unwrap();
    let authority = Authority::read(&texts, at).unwrap();
    (texts, authority)
}

fn unusable() -> AuthorityError {
    AuthorityError::Field { field: "tls.key", problem: "is no key".to_owned() }
}

/// Nodes with a ready proxy, each with roots and issuers.
fn reports(nodes: &[(&str, &[&Authority], &[&Authority])]) -> Reports {
    let report = |roots: &[&Authority], issuers: &[&Authority]| Report {
        is_ready: true,
        roots: roots.iter().map(|one| one.root().to_owned()).collect(),
        issuers: issuers.iter().map(|one| one.key_id().to_owned()).collect(),
    };
    let nodes = nodes.iter().map(|(node, roots, issuers)| ((*node).to_owned(), report(roots, issuers)));
    Reports { nodes: nodes.collect(), lifetime: DAY }
}

fn nobody() -> Reports {
    Reports { nodes: BTreeMap::new(), lifetime: DAY }
}

/// Whom certificates are issued by, and how many roots proxies are told of.
fn in_force(verdict: &Verdict) -> (Option<String>, usize) {
    (verdict.active.as_ref().map(|(_, authority)| authority.key_id().to_owned()), verdict.told.root_count)
}

fn by(authority: &Authority, roots: usize) -> (Option<String>, usize) {
    (Some(authority.key_id().to_owned()), roots)
}

#[test]
fn a_new_root_goes_everywhere_then_issues_and_then_the_old_one_goes() {
    let (old_texts, old) = made(now());
    let mut kept = Kept::new(old_texts, None);
    let all_old = reports(&[("a", &[&old], &[&old]), ("b", &[&old], &[&old])]);
    assert_eq!(decide(&kept, None, Some(&all_old), now()).step, None, "all is as it should be");

    kept.asked = Some("1".to_owned());
    assert_eq!(decide(&kept, None, None, now()).step, None, "who does not lead changes nothing");
    let step = decide(&kept, None, Some(&all_old), now()).step.unwrap();
    assert_eq!(step, Step::Rotate);
    kept = step.take(&kept, now()).unwrap();
    assert_eq!(kept.rotated.as_deref(), Some("1"));
    let new = Authority::read(kept.wanted.as_ref().unwrap(), now()).unwrap();

    // Everywhere first: also for a replica that knows nothing but the Secret.
    let half = reports(&[("a", &[&old, &new], &[&old]), ("b", &[&old], &[&old])]);
    for reports in [Some(&all_old), Some(&half), None] {
        let verdict = decide(&kept, None, reports, now());
        assert_eq!((in_force(&verdict), verdict.step), (by(&old, 2), None));
    }
    let waits = decide(&kept, None, Some(&half), now()).told.waits.unwrap();
    assert_eq!(waits, format!("the new root {} is not yet known to the proxies of 1 nodes: b", new.root()));

    let both = reports(&[("a", &[&old, &new], &[&old]), ("b", &[&old, &new], &[&old])]);
    kept = decide(&kept, None, Some(&both), now()).step.unwrap().take(&kept, now()).unwrap();
    let verdict = decide(&kept, None, Some(&both), now() + DAY / 2);
    assert_eq!((in_force(&verdict), verdict.step), (by(&new, 2), None), "the old ones are in use");

    let renewed = reports(&[("a", &[&old, &new], &[&new]), ("b", &[&old, &new], &[&new])]);
    let soon = decide(&kept, None, Some(&renewed), now() + SETTLE / 2);
    assert_eq!(soon.step, None, "another replica may still issue by the old one");
    assert_eq!(decide(&kept, None, None, now() + DAY / 2).step, None);
    let step = decide(&kept, None, Some(&renewed), now() + DAY / 2).step.unwrap();
    assert_eq!(step, Step::Forget);
    kept = step.take(&kept, now()).unwrap();
    let verdict = decide(&kept, None, Some(&renewed), now() + DAY);
    assert_eq!((in_force(&verdict), verdict.step), (by(&new, 1), None));
}

#[test]
fn the_old_root_goes_when_nothing_that_it_has_signed_can_be_good_whatever_a_lost_node_said_last() {
    let (old_texts, old) = made(now());
    let (new_texts, new) = made(now());
    let kept = Kept { wanted: Ok(new_texts), ..Kept::new(old_texts, None) };
    let both = reports(&[("a", &[&old, &new], &[&old])]);
    let kept = decide(&kept, None, Some(&both), now()).step.unwrap().take(&kept, now()).unwrap();
    assert_eq!(decide(&kept, None, Some(&both), now() + DAY).step, None);
    assert_eq!(decide(&kept, None, Some(&both), now() + DAY + SETTLE).step, Some(Step::Forget));
}

#[test]
fn proxies_that_are_not_ready_are_not_waited_for_and_those_that_report_no_roots_are() {
    let (old_texts, old) = made(now());
    let (new_texts, new) = made(now());
    let kept = Kept { wanted: Ok(new_texts), ..Kept::new(old_texts, None) };
    let mut some = reports(&[("a", &[&old, &new], &[&old]), ("b", &[], &[])]);
    assert_eq!(decide(&kept, None, Some(&some), now()).step, None);
    some.nodes.get_mut("b").unwrap().is_ready = false;
    assert!(matches!(
        decide(&kept, None, Some(&some), now()).step,
        Some(Step::Issue { retired: Some(_), .. })
    ));
}

#[test]
fn an_authority_that_cannot_be_used_leaves_the_last_good_one_in_force() {
    let (texts, authority) = made(now());
    let broken = Kept { wanted: Err(unusable()), ..Kept::new(texts.clone(), None) };
    let verdict = decide(&broken, None, Some(&nobody()), now());
    assert_eq!((in_force(&verdict), &verdict.step), (by(&authority, 1), &None));
    assert_eq!(verdict.told.problem.as_deref(), Some("tls.key: is no key"));
    // A Secret that was put in place of the old one has nothing of what was in force: whoever remembers writes it.
    let replaced = Kept { active: None, ..broken };
    let verdict = decide(&replaced, Some(&texts), Some(&nobody()), now());
    assert_eq!(in_force(&verdict), by(&authority, 1));
    let kept = verdict.step.unwrap().take(&replaced, now()).unwrap();
    assert_eq!(kept.active, Some(texts));
    // Nothing was ever good.
    let verdict = decide(&replaced, None, Some(&nobody()), now());
    assert_eq!((in_force(&verdict), verdict.step, verdict.told.ends), ((None, 0), None, None));
}

#[test]
fn one_that_is_put_in_place_of_another_waits_for_its_root_too() {
    let (old_texts, old) = made(now());
    let (new_texts, new) = made(now());
    let replaced = Kept { active: None, ..Kept::new(new_texts, None) };
    let all_old = reports(&[("a", &[&old], &[&old])]);
    // The replica that remembers the old one says so at first.
    let verdict = decide(&replaced, Some(&old_texts), Some(&all_old), now());
    assert_eq!(in_force(&verdict), by(&old, 2));
    let kept = verdict.step.unwrap().take(&replaced, now()).unwrap();
    let verdict = decide(&kept, None, Some(&all_old), now());
    assert_eq!((in_force(&verdict), &verdict.step), (by(&old, 2), &None));
    assert!(verdict.told.waits.is_some());
    // One that nobody remembers the predecessor of is taken at once, since nothing else can issue.
    let verdict = decide(&replaced, None, Some(&all_old), now());
    assert_eq!(in_force(&verdict), by(&new, 1));
}

#[test]
fn a_third_authority_waits_until_the_first_has_gone_and_more_roots_of_the_same_do_not() {
    let [(a_texts, a), (b_texts, b), (c_texts, c)] = [(); 3].map(|()| made(now()));
    let kept = Kept { wanted: Ok(b_texts.clone()), ..Kept::new(a_texts, None) };
    let all = reports(&[("n", &[&a, &b, &c], &[&a])]);
    let kept = decide(&kept, None, Some(&all), now()).step.unwrap().take(&kept, now()).unwrap();
    let third = Kept { wanted: Ok(c_texts.clone()), ..kept.clone() };
    let verdict = decide(&third, None, Some(&all), now());
    assert_eq!((in_force(&verdict), verdict.step), (by(&b, 3), None));
    assert!(verdict.told.waits.is_some());
    let more = Texts { roots: b_texts.roots.clone() + &c_texts.roots, ..b_texts };
    let kept = Kept { wanted: Ok(more.clone()), ..kept };
    let step = decide(&kept, None, Some(&all), now()).step;
    assert_eq!(step, Some(Step::Issue { by: more, retired: None }));
    let after = step.unwrap().take(&kept, now()).unwrap();
    assert_eq!(after.retired, kept.retired, "the first is not forgotten");
}

#[test]
fn a_root_that_was_made_here_is_replaced_after_two_thirds_of_its_life_and_a_given_one_never() {
    let (texts, authority) = made(now());
    let kept = Kept::new(texts, None);
    let at = |at: SystemTime| decide(&kept, None, Some(&nobody()), at).step;
    let due = now() + ROOT_LIFETIME / 3 * 2;
    assert_eq!((at(due - DAY), at(due)), (None, Some(Step::Rotate)));
    assert!(!authority.ends_soon(due) && authority.ends_soon(now() + ROOT_LIFETIME - DAY * 29));

    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "ours");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificates = params.self_signed(&key).unwrap().pem();
    let given = Texts { certificates, key: super::super::ca::Key(key.serialize_pem()), roots: String::new() };
    let asked = Kept { asked: Some("1".to_owned()), ..Kept::new(given, None) };
    assert_eq!(decide(&asked, None, Some(&nobody()), now()).step, None);
}

#[test]
fn an_authority_in_force_that_has_ended_gives_way_at_once() {
    let (old_texts, old) = made(now() - ROOT_LIFETIME + DAY);
    let (new_texts, new) = made(now());
    let kept = Kept { wanted: Ok(new_texts), ..Kept::new(old_texts, None) };
    let lacking = reports(&[("a", &[&old], &[&old])]);
    assert_eq!(in_force(&decide(&kept, None, Some(&lacking), now())), by(&old, 2));
    let later = now() + DAY * 2;
    let verdict = decide(&kept, None, Some(&lacking), later);
    assert_eq!(in_force(&verdict), by(&new, 1));
    assert!(matches!(verdict.step, Some(Step::Issue { retired: None, .. })));
}
