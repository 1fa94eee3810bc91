//! The regular expressions of names in schemas, each said once; lengths are said where they are used.

/// A DNS label (RFC 1123), as namespaces and most names are.
pub(crate) const LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// The name of a Service (RFC 1035).
pub(crate) const SERVICE: &str = r"^[a-z]([-a-z0-9]*[a-z0-9])?$";
/// A name that may have dots, as service accounts and clusters' domains have.
pub(crate) const DOTTED: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// The name of a host.
pub(crate) const HOST: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The name of a host outside the cluster, with a dot in it, or `*.` and one. Its last label begins with a letter: resolvers take others for addresses.
pub(crate) const HOST_OUTSIDE: &str =
    r"^(\*\.)?([a-z0-9_]([-a-z0-9_]*[a-z0-9_])?\.)+[a-z]([-a-z0-9]*[a-z0-9])?$";
/// The name of a header field (RFC 9110 §5.1), but for the back-quote.
pub(crate) const FIELD: &str = r"^[A-Za-z0-9!#$%&'*+.^_|~-]+$";
/// A method of HTTP.
pub(crate) const METHOD: &str = r"^[A-Z]+(-[A-Z]+)*$";
/// An absolute path as it stands in a request.
pub(crate) const PATH: &str = r"^/[!-~]*$";
/// A block of addresses.
pub(crate) const BLOCK: &str = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$";
/// The key of a label: a name, before it perhaps a domain with a slash.
pub(crate) const LABEL_KEY: &str =
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// The value of a label; it may be empty.
pub(crate) const LABEL_VALUE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";
