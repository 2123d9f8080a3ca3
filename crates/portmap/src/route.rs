//! The default gateway, from the kernel's own tables in `/proc/net` (`proc_pid_net(5)`).

use std::net::{Ipv4Addr, Ipv6Addr};

/// No table is read further: the default route of a host with full tables is near the top or is not asked for.
pub const MAX_TABLE: usize = 1024 * 1024;

/// Include/linux/route.h: the route is usable.
const RTF_UP: u32 = 1;
/// Include/linux/route.h: it leads through a gateway.
const RTF_GATEWAY: u32 = 2;

/// A default gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway<A> {
    /// Its address.
    pub address: A,
    /// The interface it is reached by.
    pub interface: String,
}

/// The default gateway of `/proc/net/route` with the smallest metric.
pub fn parse_ipv4(table: &str) -> Option<Gateway<Ipv4Addr>> {
    let mut best = None;
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, gateway, flags, _, _, metric, mask, ..] = *fields.as_slice() else {
            continue;
        };
        let hex = |text: &str| u32::from_str_radix(text, 16).ok();
        let (Some(0), Some(0), Some(gateway), Some(flags), Ok(metric)) =
            (hex(destination), hex(mask), hex(gateway), hex(flags), metric.parse::<u32>())
        else {
            continue;
        };
        if flags & (RTF_UP | RTF_GATEWAY) != RTF_UP | RTF_GATEWAY || gateway == 0 {
            continue;
        }
        if best.as_ref().is_none_or(|(least, _)| metric < *least) {
            // The kernel prints the address as a number of this machine's byte order.
            let address = Ipv4Addr::from(gateway.to_ne_bytes());
            best = Some((metric, Gateway { address, interface: interface.to_owned() }));
        }
    }
    best.map(|(_, gateway)| gateway)
}

/// The default gateway of `/proc/net/ipv6_route` with the smallest metric.
pub fn parse_ipv6(table: &str) -> Option<Gateway<Ipv6Addr>> {
    let mut best = None;
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, length, _, _, gateway, metric, _, _, flags, interface] = *fields.as_slice() else {
            continue;
        };
        let wide = |text: &str| u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
        let hex = |text: &str| u32::from_str_radix(text, 16).ok();
        let (Some(0), Some(0), Some(gateway), Some(metric), Some(flags)) =
            (wide(destination), hex(length), wide(gateway), hex(metric), hex(flags))
        else {
            continue;
        };
        if flags & (RTF_UP | RTF_GATEWAY) != RTF_UP | RTF_GATEWAY || gateway == 0 {
            continue;
        }
        if best.as_ref().is_none_or(|(least, _)| metric < *least) {
            best =
                Some((metric, Gateway { address: Ipv6Addr::from(gateway), interface: interface.to_owned() }));
        }
    }
    best.map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_default_route_with_the_smallest_metric_is_taken() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     down0\t00000000\t0901A8C0\t0002\t0\t0\t1\t00000000\t0\t0\t0\n\
                     eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        let found = parse_ipv4(table).unwrap();
        assert_eq!((found.address, found.interface.as_str()), (Ipv4Addr::new(192, 168, 1, 1), "eth0"));
    }

    #[test]
    fn an_ipv6_gateway_is_found_with_its_interface() {
        let zero = "0".repeat(32);
        let table = format!(
            "20010db8000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n\
             {zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        let found = parse_ipv6(&table).unwrap();
        assert_eq!((found.address, found.interface.as_str()), ("fe80::1".parse().unwrap(), "eth0"));
    }

    #[test]
    fn a_table_without_a_gateway_has_none() {
        assert_eq!(parse_ipv4(""), None);
        assert_eq!(parse_ipv4("head\nppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"), None);
        assert_eq!(parse_ipv6("nonsense\n"), None);
    }
}
