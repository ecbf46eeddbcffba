//! Which addresses webhooks may be sent to. Pure: literals are checked here; names are
//! resolved at the attempt, and their addresses checked by the same rules.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use url::{Host, Url};

/// Ports above 1024 of well-known services that do not speak HTTP.
const SERVICE_PORTS: [u16; 24] = [
    1433, 1521, 1883, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 4369, 5432, 5672, 5900, 5984, 6379, 6667, 9042,
    9092, 9200, 11211, 27017, 50000,
];

/// Why a URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("is not a URL with a host, such as https://crm.example/hooks")]
    NotAUrl,
    #[error("must begin with https:// (http:// is for targets in [delivery] allow_targets)")]
    Scheme,
    #[error("must not carry a user name or password")]
    Userinfo,
    #[error("names a port that is not for HTTP: 80, 443 and from 1024 are allowed, well-known services excepted")]
    Port,
    #[error("names a private, local or reserved address (see [delivery] allow_targets)")]
    Address,
}

/// Whether a text is an `http:` or `https:` URL.
pub fn is_page(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.host().is_some())
}

/// Checks an endpoint's URL without resolving its name.
///
/// # Errors
/// The first rule that the URL breaks.
pub fn check_url(text: &str, allowed: &[IpNet]) -> Result<Url, Refused> {
    let url = Url::parse(text).map_err(|_| Refused::NotAUrl)?;
    let https = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err(Refused::Scheme),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused::Userinfo);
    }
    let port = url.port_or_known_default().ok_or(Refused::Port)?;
    if !(port == 80 || port == 443 || port >= 1024) || SERVICE_PORTS.contains(&port) {
        return Err(Refused::Port);
    }
    let literal = match url.host().ok_or(Refused::NotAUrl)? {
        Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let local = name == "localhost" || name.ends_with(".localhost");
            if local && !is_allowed(IpAddr::V4(Ipv4Addr::LOCALHOST), allowed) {
                return Err(Refused::Address);
            }
            local.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST))
        }
    };
    match literal {
        Some(ip) if is_forbidden(ip) && !is_allowed(ip, allowed) => Err(Refused::Address),
        Some(ip) if !https && !is_allowed(ip, allowed) => Err(Refused::Scheme),
        // Plain http is checked at the attempt, by the addresses of the name.
        None if !https && allowed.is_empty() => Err(Refused::Scheme),
        _ => Ok(url),
    }
}

/// Whether the operator has allowed this address. Cloud metadata services cannot be
/// allowed.
pub fn is_allowed(ip: IpAddr, allowed: &[IpNet]) -> bool {
    !is_metadata(ip) && allowed.iter().any(|net| net.contains(&ip))
}

fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4 == Ipv4Addr::new(169, 254, 169, 254),
        IpAddr::V6(v6) => {
            v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
                || embedded(v6).is_some_and(|v4| is_metadata(IpAddr::V4(v4)))
        }
    }
}

/// Whether webhooks may not be sent there unless the operator allows it.
pub fn is_forbidden(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => is_forbidden_v6(v6),
    }
}

/// Everything that RFC 6890 and its successors do not make public.
fn is_forbidden_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 31, 196)
            | (192, 52, 193)
            | (192, 88, 99)
            | (192, 168, _)
            | (192, 175, 48)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, _, _)
    )
}

fn is_forbidden_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        // NAT64: the address inside decides.
        return embedded(ip).is_none_or(is_forbidden_v4);
    }
    // Only 2000::/3 is public, and not all of it.
    s[0] & 0xe000 != 0x2000
        || s[0] == 0x2002
        || s[0] == 0x2001 && (s[1] < 0x200 || s[1] == 0xdb8)
        || s[0] == 0x3fff && s[1] < 0x1000
        || s[0] == 0x2620 && s[1] == 0x4f && s[2] == 0x8000
}

/// The IPv4 address inside an IPv6 address that embeds one.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let tail = Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
    match s[..6] {
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(tail),
        [0x2002, high, low, ..] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_in_every_spelling() {
        for url in [
            "https://127.0.0.1",
            "https://127.0.0.1:8443/path?query",
            "https://127.255.255.254",
            "https://127.1",
            "https://127.0.1",
            "https://2130706433",
            "https://0x7f000001",
            "https://0x7f.1",
            "https://0x7F.0x0.0x0.0x1",
            "https://0177.0.0.1",
            "https://017700000001",
            "https://0",
            "https://0.0.0.0",
            "https://0.1.2.3",
            "https://１２７.０.０.１",
            "https://127。0。0。1",
            "https://10.1.2.3",
            "https://167772161",
            "https://100.64.0.1",
            "https://100.127.255.255",
            "https://169.254.0.1",
            "https://169.254.169.254",
            "https://172.16.0.1",
            "https://172.31.0.1",
            "https://192.0.0.8",
            "https://192.0.2.1",
            "https://192.88.99.1",
            "https://192.168.0.1",
            "https://198.18.0.1",
            "https://198.19.255.255",
            "https://198.51.100.1",
            "https://203.0.113.1",
            "https://224.0.0.1",
            "https://240.0.0.1",
            "https://255.255.255.255",
            "https://[::]",
            "https://[::1]",
            "https://[0:0:0:0:0:0:0:1]",
            "https://[::127.0.0.1]",
            "https://[::7f00:1]",
            "https://[::ffff:127.0.0.1]",
            "https://[::ffff:7f00:1]",
            "https://[::ffff:8.8.8.8]",
            "https://[::ffff:0:10.0.0.1]",
            "https://[64:ff9b::7f00:1]",
            "https://[64:ff9b::10.0.0.1]",
            "https://[64:ff9b::169.254.169.254]",
            "https://[64:ff9b:1::1]",
            "https://[100::1]",
            "https://[2001::1]",
            "https://[2001:10::1]",
            "https://[2001:20::1]",
            "https://[2001:db8::1]",
            "https://[2002:7f00:1::]",
            "https://[2002:808:808::]",
            "https://[3fff::1]",
            "https://[5f00::1]",
            "https://[fc00::1]",
            "https://[fd00:ec2::254]",
            "https://[fe80::1]",
            "https://[fec0::1]",
            "https://[ff02::1]",
            "https://localhost",
            "https://LOCALHOST.",
            "https://a.localhost",
            "https://a.b.localhost:8443",
        ] {
            assert_eq!(check_url(url, &[]), Err(Refused::Address), "{url}");
        }
        for (url, why) in [
            ("file:///etc/passwd", Refused::Scheme),
            ("http://example.com", Refused::Scheme),
            ("http://93.184.216.34", Refused::Scheme),
            ("https://a:b@example.com", Refused::Userinfo),
            ("https://example.com:22", Refused::Port),
            ("https://example.com:25", Refused::Port),
            ("https://example.com:6379", Refused::Port),
            ("nonsense", Refused::NotAUrl),
            ("https://", Refused::NotAUrl),
            ("https://[::1", Refused::NotAUrl),
            ("https://1.2.3.4.5", Refused::NotAUrl),
            ("https://256.1.1.1", Refused::NotAUrl),
            ("ftp://example.com", Refused::Scheme),
            ("gopher://example.com", Refused::Scheme),
            ("javascript:alert(1)", Refused::Scheme),
            ("https://a@example.com", Refused::Userinfo),
            ("https://:b@example.com", Refused::Userinfo),
            ("https://example.com:5432", Refused::Port),
            ("https://example.com:0", Refused::Port),
        ] {
            assert_eq!(check_url(url, &[]), Err(why), "{url}");
        }
        for url in [
            "https://example.com/x",
            "https://93.184.216.34",
            "https://[64:ff9b::5db8:d822]",
            "https://100.63.255.255",
            "https://100.128.0.1",
            "https://172.15.0.1",
            "https://172.32.0.1",
            "https://192.167.0.1",
            "https://198.17.0.1",
            "https://223.255.255.255",
            "https://[2606:2800:220:1::1]",
            "https://[2001:4860:4860::8888]",
            "https://notlocalhost",
            "https://localhost.example.com",
            "https://example.com:1024",
            "https://example.com:8443",
        ] {
            assert!(check_url(url, &[]).is_ok(), "{url}");
        }
    }

    /// An address in one of the spellings that the WHATWG parser takes.
    fn spelled(ip: u32, style: u8) -> String {
        let [a, b, c, d] = ip.to_be_bytes();
        match style % 7 {
            0 => format!("{a}.{b}.{c}.{d}"),
            1 => format!("{ip}"),
            2 => format!("{ip:#x}"),
            3 => format!("0{ip:o}"),
            4 => format!("{a:#x}.{b}.{}", (u32::from(c) << 8) | u32::from(d)),
            5 => format!("0{a:o}.{}", ip & 0xff_ffff),
            _ => format!("{a}.{b:#X}.0{c:o}.{d}"),
        }
    }

    proptest::proptest! {
        #[test]
        fn an_address_is_judged_alike_however_it_is_spelled_or_wrapped(ip: u32, style: u8) {
            let plain = Ipv4Addr::from(ip);
            let url = format!("https://{}/", spelled(ip, style));
            proptest::prop_assert_eq!(check_url(&url, &[]).is_err(), is_forbidden_v4(plain), "{}", url);
            let [a, b, c, d] = plain.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let nat64 = format!("https://[64:ff9b::{high:x}:{low:x}]/");
            proptest::prop_assert_eq!(check_url(&nat64, &[]).is_err(), is_forbidden_v4(plain), "{}", nat64);
            for wrapped in ["::ffff:", "::", "::ffff:0:", "64:ff9b:1::"] {
                let url = format!("https://[{wrapped}{high:x}:{low:x}]/");
                proptest::prop_assert_eq!(check_url(&url, &[]), Err(Refused::Address), "{}", url);
            }
            let six_to_four = format!("https://[2002:{high:x}:{low:x}::1]/");
            proptest::prop_assert_eq!(check_url(&six_to_four, &[]), Err(Refused::Address));
        }
    }

    #[test]
    fn operators_open_networks_but_never_metadata() {
        let loopback: Vec<IpNet> = vec!["127.0.0.0/8".parse().unwrap()];
        assert!(check_url("http://127.0.0.1:9000/hook", &loopback).is_ok());
        assert!(check_url("http://localhost:9000/hook", &loopback).is_ok());
        assert_eq!(check_url("http://10.0.0.1", &loopback), Err(Refused::Address));
        let all: Vec<IpNet> = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        assert_eq!(check_url("http://169.254.169.254", &all), Err(Refused::Address));
        assert_eq!(check_url("http://[::ffff:169.254.169.254]", &all), Err(Refused::Address));
    }
}
