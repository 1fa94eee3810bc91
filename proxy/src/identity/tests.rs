//! When certificates are asked for, and when they are forgotten.

use std::time::UNIX_EPOCH;

use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;

const DAY: Duration = Duration::from_hours(24);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn identity(account: &str) -> Identity {
    Identity::workload("cluster.local", "shop", account).unwrap()
}

/// Good for a day from now on.
fn credentials(of: &Identity) -> Credentials {
    credentials_for(of, DAY)
}

fn credentials_for(of: &Identity, lifetime: Duration) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(of.to_string().try_into().unwrap())];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now().duration_since(UNIX_EPOCH).unwrap();
    params.use_authority_key_identifier_extension = true;
    params.not_after = epoch + (now() + lifetime).duration_since(UNIX_EPOCH).unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    Credentials::new(&chain, &key.serialize_pem()).unwrap()
}

fn keeper(accounts: &[&str]) -> Keeper {
    let mut keeper = Keeper::default();
    assert!(!keeper.want(&accounts.iter().map(|account| identity(account)).collect()));
    keeper
}

#[test]
fn what_is_wanted_is_asked_for_at_once_and_renewed_when_two_thirds_of_its_time_are_over() {
    let mut keeper = keeper(&["web", "pay"]);
    assert_eq!(keeper.due(now()), [identity("pay"), identity("web")]);
    assert_eq!(keeper.pause(now()), Some(Duration::ZERO));
    for (account, chance) in [("web", 0.0), ("pay", 1.0)] {
        keeper.take(&identity(account), credentials(&identity(account)), (now(), chance));
    }
    assert_eq!(keeper.certificates().len(), 2);
    assert!(keeper.due(now()).is_empty());
    let (web, pay) = (DAY * 2 / 3, DAY * 17 / 30);
    assert_eq!(keeper.pause(now()), Some(pay));
    assert_eq!(keeper.due(now() + pay), [identity("pay")]);
    assert_eq!(keeper.due(now() + web), [identity("pay"), identity("web")]);
}

#[test]
fn of_those_that_came_together_each_is_renewed_at_a_time_of_its_own_and_what_did_not_come_is_asked_for_together()
 {
    let accounts: Vec<_> = (0..REQUESTS_MAX).map(|i| format!("a{i}")).collect();
    let mut keeper = keeper(&accounts.iter().map(String::as_str).collect::<Vec<_>>());
    let asked = keeper.due(now());
    let mut drawn = 0.0;
    let mut chance = || {
        drawn += 1.0 / 1024.0;
        drawn
    };
    let answer: Vec<_> =
        asked[2..].iter().map(|identity| (identity.clone(), credentials(identity))).collect();
    assert!(settle(&mut keeper, &asked, Ok(answer), (now(), &mut chance)));
    let ask_at = |identity: &Identity| keeper.wanted[identity].ask_at.unwrap();
    let times: BTreeSet<_> = asked[2..].iter().map(ask_at).collect();
    assert_eq!(times.len(), REQUESTS_MAX - 2);
    assert!(times.iter().all(|at| (now() + DAY * 17 / 30..=now() + DAY * 2 / 3).contains(at)));
    assert_eq!(ask_at(&asked[0]), ask_at(&asked[1]));
}

#[test]
fn the_shortest_certificate_is_renewed_in_time_too_and_one_that_an_ending_authority_cuts_is_not_asked_for_without_pause()
 {
    let mut keeper = keeper(&["web"]);
    let web = identity("web");
    let mut pause = |lifetime: u64, chance: f64| {
        keeper.take(&web, credentials_for(&web, Duration::from_secs(lifetime)), (now(), chance));
        keeper.pause(now()).unwrap()
    };
    assert_eq!([pause(600, 0.0), pause(600, 1.0)], [Duration::from_secs(400), Duration::from_secs(340)]);
    assert_eq!([pause(1, 0.0), pause(0, 0.0)], [RETRY_FIRST, RETRY_FIRST]);
}

#[test]
fn what_another_authority_has_signed_is_renewed_soon_and_together() {
    let mut keeper = keeper(&["pay", "web"]);
    let (pay, web) = (identity("pay"), identity("web"));
    for identity in [&pay, &web] {
        keeper.take(identity, credentials(identity), (now(), 0.0));
    }
    let due = |keeper: &Keeper, identity: &Identity| {
        keeper.wanted[identity].ask_at.unwrap().duration_since(now()).unwrap()
    };
    let its_own = keeper.wanted[&web].held.as_ref().unwrap().svid().issuer.clone();
    keeper.prefer(&its_own, (now(), 0.0));
    assert_eq!(due(&keeper, &web), DAY * 2 / 3, "it has signed it");
    keeper.prefer("0123456789abcdef", (now(), 1.0));
    assert_eq!([due(&keeper, &pay), due(&keeper, &web)], [DAY / 2000; 2]);
    // One more of the authority before, from a replica that does not know of the new one yet.
    keeper.take(&web, credentials(&web), (now(), 0.0));
    assert_eq!(due(&keeper, &web), DAY / 1000);
    // One that is to be asked for sooner anyway keeps its time.
    keeper.fail(&pay, (now(), 0.0));
    keeper.prefer("0123456789abcdef", (now(), 0.0));
    assert_eq!(due(&keeper, &pay), RETRY_FIRST);
}

#[test]
fn clocks_are_compared() {
    let later = now() + Duration::from_secs(90);
    assert_eq!((seconds_between(now(), later), seconds_between(later, now())), (90, -90));
}

#[test]
fn who_leaves_is_forgotten_and_what_comes_late_for_it_is_not_kept() {
    let mut keeper = keeper(&["web", "pay"]);
    keeper.take(&identity("web"), credentials(&identity("web")), (now(), 0.0));
    assert!(keeper.want(&[identity("pay")].into()));
    assert!(keeper.certificates().is_empty());
    keeper.take(&identity("web"), credentials(&identity("web")), (now(), 0.0));
    keeper.fail(&identity("web"), (now(), 0.0));
    assert!(keeper.certificates().is_empty());
    assert!(!keeper.want(&[identity("pay"), identity("new")].into()));
    assert_eq!(keeper.due(now()), [identity("new"), identity("pay")]);
}

#[test]
fn what_fails_is_tried_again_later_and_later_while_what_is_held_stays_until_it_ends() {
    let mut keeper = keeper(&["web"]);
    keeper.take(&identity("web"), credentials(&identity("web")), (now(), 0.0));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        keeper.fail(&identity("web"), (now(), 0.0));
        pauses.push(keeper.pause(now()).unwrap().as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    keeper.fail(&identity("web"), (now(), 1.0));
    assert_eq!(keeper.pause(now()), Some(Duration::from_secs(30)), "half of it is by chance");
    assert!(!keeper.expire(now() + DAY - Duration::from_secs(1)));
    assert_eq!(keeper.certificates().len(), 1);
    assert!(keeper.expire(now() + DAY));
    assert!(keeper.certificates().is_empty() && !keeper.expire(now() + DAY));
    keeper.take(&identity("web"), credentials(&identity("web")), (now(), 0.0));
    keeper.fail(&identity("web"), (now(), 0.0));
    assert_eq!(keeper.pause(now()).unwrap().as_secs(), 1, "and begins anew after a success");
}

#[test]
fn one_request_has_a_bound() {
    let accounts: Vec<_> = (0..600).map(|i| format!("a{i}")).collect();
    let mut keeper = keeper(&accounts.iter().map(String::as_str).collect::<Vec<_>>());
    let first = keeper.due(now());
    assert_eq!(first.len(), REQUESTS_MAX);
    for identity in &first {
        keeper.fail(identity, (now(), 0.0));
    }
    assert_eq!(keeper.due(now()).len(), 600 - REQUESTS_MAX);
}

#[test]
fn of_an_answer_only_what_was_asked_for_is_taken_and_the_rest_has_failed() {
    let mut keeper = keeper(&["web", "pay"]);
    let asked = keeper.due(now());
    let answer =
        [identity("web"), identity("other")].map(|identity| (identity.clone(), credentials(&identity)));
    assert!(settle(&mut keeper, &asked, Ok(answer.into()), (now(), &mut || 0.0)));
    assert_eq!(keeper.certificates().keys().collect::<Vec<_>>(), [&identity("web")]);
    assert_eq!(keeper.pause(now()), Some(RETRY_FIRST), "for pay");
    assert!(!settle(&mut keeper, &asked, Err(AskError::Slow), (now(), &mut || 0.0)));
    assert_eq!(keeper.certificates().len(), 1);
}
