//! The field `vicino-route: web=web-v2, api.shop=api-test`: which other Service a call asks for, by itself and for the calls that follow from it.

use crate::snapshot::ServiceName;

/// The name of the field. It travels to the application, which passes it on with calls of its own.
pub const OVERRIDE_FIELD: &str = "vicino-route";

/// What the field's value asks for where `service` is called, as an index into `allowed`. None: it is about other Services. An error: it asks for one that is not allowed.
/// Names are `service` or `service.namespace`; without a namespace they are in that of `service`.
pub fn overridden<'s>(
    value: &[u8],
    service: &ServiceName,
    allowed: impl IntoIterator<Item = &'s ServiceName>,
) -> Option<Result<usize, NotAllowed>> {
    let mut pairs = value.split(|b| *b == b',').filter_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
    });
    let (_, wanted) = pairs.find(|(of, _)| is(of, service, &service.namespace))?;
    Some(allowed.into_iter().position(|one| is(wanted, one, &service.namespace)).ok_or(NotAllowed))
}

/// A call asks for a Service that its route does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAllowed;

fn is(text: &[u8], service: &ServiceName, namespace: &str) -> bool {
    let at = text.iter().position(|b| *b == b'.');
    let (name, of) = at.map_or((text, namespace.as_bytes()), |at| (&text[..at], &text[at + 1..]));
    name == service.name.as_bytes() && of == service.namespace.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_about_the_service_that_is_called() {
        let name =
            |namespace: &str, name: &str| ServiceName { namespace: namespace.into(), name: name.into() };
        let web = name("shop", "web");
        let allowed = [name("shop", "web-v2"), name("bank", "web-v3")];
        for (value, expected) in [
            ("web=web-v2", Some(Ok(0))),
            ("api=x,  web = web-v2 ,web=web-v3", Some(Ok(0))),
            ("web.shop=web-v2.shop", Some(Ok(0))),
            ("web=web-v3.bank", Some(Ok(1))),
            ("web=web-v3", Some(Err(NotAllowed))),
            ("web=", Some(Err(NotAllowed))),
            ("web=web", Some(Err(NotAllowed))),
            ("web.bank=web-v2", None),
            ("web", None),
            ("", None),
            ("api=web-v2", None),
        ] {
            assert_eq!(overridden(value.as_bytes(), &web, &allowed), expected, "{value}");
        }
    }
}
