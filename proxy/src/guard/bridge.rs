//! Whether calls between pods of this node pass the node's packet filter: not where a bridge carries them and
//! `br_netfilter` is off; reads `/proc` and `/sys`, changes nothing.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::plan::Plan;

const ROUTES: &str = "/proc/net/route";
const SYSCTL: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
const DEVICES: &str = "/sys/class/net";

/// A bridge between pods of the plan that does not ask the packet filter. IPv4 alone is looked at: a bridge carries both.
pub(super) fn unfiltered(plan: &Plan) -> Option<String> {
    if fs::read_to_string(SYSCTL).is_ok_and(|value| value.trim() == "1") {
        return None;
    }
    let routes = fs::read_to_string(ROUTES).ok()?;
    let addresses = plan.items.keys().filter_map(|entry| match entry.address {
        IpAddr::V4(address) if entry.port.is_none() => Some(address),
        _ => None,
    });
    let device = |address| device(&routes, address);
    addresses.filter_map(device).find(|device| Path::new(DEVICES).join(device).join("bridge").exists())
}

/// The device of the most specific route to an address without a gateway, in `/proc/net/route`'s format.
fn device(routes: &str, address: Ipv4Addr) -> Option<String> {
    let matching = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [device, destination, gateway, _, _, _, _, mask, ..] = fields[..] else { return None };
        // Hexadecimal, in the byte order of the machine, as the kernel has them in memory.
        let number =
            |text| u32::from_str_radix(text, 16).ok().map(|raw| u32::from_be_bytes(raw.to_ne_bytes()));
        let (destination, gateway, mask) = (number(destination)?, number(gateway)?, number(mask)?);
        (address.to_bits() & mask == destination).then_some((mask, gateway, device))
    });
    let (_, gateway, device) = matching.max_by_key(|(mask, ..)| *mask)?;
    (gateway == 0).then(|| device.to_owned())
}

#[cfg(test)]
mod tests {
    use super::device;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
cni0\t0001F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
veth1\t0701F40A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
eth0\t0002F40A\t0201A8C0\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_most_specific_route_says_the_device() {
        let of = |address: &str| device(ROUTES, address.parse().unwrap());
        assert_eq!(of("10.244.1.9").as_deref(), Some("cni0"));
        assert_eq!(of("10.244.1.7").as_deref(), Some("veth1"));
        assert_eq!(of("10.244.2.7"), None, "behind a gateway");
        assert_eq!(of("8.8.8.8"), None);
    }
}
