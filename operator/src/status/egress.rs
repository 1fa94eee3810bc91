//! The condition `EgressProgrammed` of a ServiceMesh: which proxies do not yet let out what `spec.egress` says, or still let out more.

use vicino_crds::condition::{Wanted, kind};
use vicino_crds::names;

use super::programmed::{nodes, programmed};
use super::{Context, Placed, wanted};
use crate::validate::MeshVerdict;
use crate::world::{Body, Key, Kind, Mesh, ObjectId};

/// None while nothing may be called, and no ready proxy thinks otherwise.
pub(super) fn condition(
    context: &Context<'_>,
    name: &str,
    mesh: &Mesh,
    verdict: &MeshVerdict,
) -> Option<Wanted> {
    let config_map = names::egress_config_map(name);
    let no = |reason, message| Some(wanted(kind::EGRESS_PROGRAMMED, false, reason, message));
    if *verdict == MeshVerdict::Deleting {
        return None;
    }
    let is_wanted = mesh.spec.as_ref().is_ok_and(|spec| !spec.egress.is_closed());
    let id = ObjectId::new(Kind::ConfigMap, Key::new(names::PROXY_NAMESPACE, &config_map));
    let is_live = context.input.world.children.of(Kind::ConfigMap).get(&id.key).is_some();
    if let Some(problem) = verdict.problem().filter(|_| is_live || is_wanted) {
        let message = if is_live {
            "not accepted; proxies go on with what they were told last"
        } else {
            "not accepted, and there is no earlier version to go on with: nothing outside the mesh is called"
        };
        return no(problem.reason, message.to_owned());
    }
    if let Some((config_map, object)) = context.input.objects.get_key_value(&id) {
        let Body::Data(data) = &object.body else { return None };
        let (data_key, text) = data.get_key_value(names::EGRESS_KEY)?;
        let placed = Placed { config_map, data_key, text };
        let condition = programmed(context, None, Some(name), Some(placed)).condition;
        return Some(Wanted { kind: kind::EGRESS_PROGRAMMED, ..condition });
    }
    let reports = context.reports.get(name)?;
    let serving = reports.serving_any(&config_map);
    let message = format!(
        "nothing outside the mesh may be called any more, and {} of {} ready proxies go by what was so before: {}",
        serving.len(),
        reports.ready.len(),
        nodes(&serving)
    );
    if serving.is_empty() { None } else { no("Programming", message) }
}
