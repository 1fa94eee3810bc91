//! Whether the mesh has an authority, and how long: the condition `IdentityReady`. It has no part in `Ready`: a mesh whose authority cannot be used goes on with the certificates that it has.

use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use vicino_crds::condition::{Wanted, kind};
use vicino_crds::names;

use crate::render::trust;
use crate::world::{Mesh, World};

pub(super) fn condition(world: &World, (name, mesh): (&str, &Mesh), now: &Time) -> Wanted {
    let say = |status, reason, message| Wanted { kind: kind::IDENTITY_READY, status, reason, message };
    let secret = format!("the Secret {}/{}", names::SYSTEM_NAMESPACE, names::AUTHORITY_SECRET);
    if trust::authority(world).is_none() {
        let service = format!("there is no Service {}/{}", names::SYSTEM_NAMESPACE, names::AUTHORITY_SERVICE);
        if trust::told_address(world, name).is_some() {
            let message = format!(
                "{service}, so no certificate is renewed: create it again with `kubectl apply -k config/default`; proxies go on with the certificates that they have"
            );
            return say(Some(false), "AuthorityAway", message);
        }
        return say(Some(false), "NoAuthority", format!("no authority is installed: {service}"));
    }
    let Some(authority) = &world.authority else {
        let message =
            "the operator has not looked at the authority yet, or was started without --authority-listen";
        return say(None, "Starting", message.to_owned());
    };
    let Some(ends) = authority.ends else {
        let problem = authority.problem.as_deref().unwrap_or("has nothing that is good now");
        return say(Some(false), "SecretUnusable", format!("{secret}: {problem}; no certificate is issued"));
    };
    let date = |time: Timestamp| time.strftime("%Y-%m-%d").to_string();
    if let Some(problem) = &authority.problem {
        let message = format!(
            "{secret}: {problem}; the authority that was good last issues certificates, which it can until {}",
            date(ends)
        );
        return say(Some(false), "SecretUnusable", message);
    }
    if let Some(waits) = &authority.waits {
        return say(Some(true), "Rotating", format!("{waits}; the authority before issues certificates"));
    }
    if authority.ends_soon {
        return say(Some(true), "AuthorityEndsSoon", format!("{secret}: ends on {}: renew it", date(ends)));
    }
    let lifetime = mesh.spec.as_ref().map(|spec| spec.identity.lifetime()).unwrap_or_default();
    if SystemTime::from(now.0) + lifetime > SystemTime::from(ends) {
        let message = format!(
            "spec.identity.certificateLifetimeSeconds: certificates are good for less, since the authority ends on {}",
            date(ends)
        );
        return say(Some(true), "LifetimeCut", message);
    }
    let roots = match authority.root_count {
        1 => "1 root".to_owned(),
        count => format!("{count} roots"),
    };
    let first = authority.first_root_ends.map(date).unwrap_or_default();
    say(
        Some(true),
        "Ready",
        format!("{roots}, good until {first}; the authority can issue certificates until {}", date(ends)),
    )
}
