//! One MeshRoute for each Service: labels and owner while nobody else manages it, neither as soon as somebody does; never a spec.

use super::Rendered;
use crate::validate::{AcceptedMesh, Validated};
use crate::world::{Body, Kind, World};

pub(super) fn render<'a>(
    world: &'a World,
    validated: &'a Validated,
    mesh: &'a AcceptedMesh,
) -> impl Iterator<Item = Rendered> + 'a {
    let wanted = validated
        .routes
        .iter()
        .filter(|(_, verdict)| verdict.wanted && verdict.mesh.as_deref() == Some(mesh.name.as_str()));
    wanted.map(|(key, _)| {
        let mut object = Rendered::new(mesh, Kind::MeshRoute, key.clone(), Body::Nothing);
        if world.routes.get(key).is_some_and(|row| row.value.others) {
            object.labels.clear();
            object.owner = None;
        }
        object
    })
}
