//! Forms of configuration values.

pub use berth_storage::parse_size;

/// A boolean as LXD reads it; empty is false.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err(format!("\"{text}\" is not a boolean; use true or false")),
    }
}

/// A rate in bits a second: a number with an optional unit, `bit kbit Mbit Gbit Tbit Pbit Ebit` (powers of 1000) or
/// `Kibit Mibit Gibit Tibit Pibit Eibit` (powers of 1024).
pub fn parse_bits(text: &str) -> Result<u64, String> {
    let complaint = || format!("\"{text}\" is not a rate; use a number of bits a second and a unit such as 100Mbit");
    let bare = text.strip_suffix("bit").or_else(|| text.bytes().all(|b| b.is_ascii_digit()).then_some(text));
    let bare = bare.filter(|bare| !bare.ends_with(['B', 'b'])).ok_or_else(complaint)?;
    // The same prefixes as those of sizes.
    let size = if bare.ends_with(|c: char| c.is_ascii_digit()) { bare.to_owned() } else { format!("{bare}B") };
    parse_size(&size).map_err(|_| complaint())
}

/// A set of CPU numbers such as `0-3,5`, at most number 1023; returned sorted.
pub fn parse_cpu_set(text: &str) -> Result<Vec<u32>, String> {
    const MAX_CPU: u32 = 1023;
    let complaint = || format!("\"{text}\" is not a CPU count or set; use for example 2 or 0-3,5");
    let mut cpus = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().map_err(|_| complaint())?;
        let last: u32 = last.trim().parse().map_err(|_| complaint())?;
        if first > last || last > MAX_CPU {
            return Err(complaint());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus.into_iter().collect())
}

/// Total memory of this host in bytes.
pub fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    // Both fields are `unsigned long`, 64 bits on every machine Berth runs on.
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// Memory: a size, or a percentage of the host's.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    match text.strip_suffix('%') {
        None => parse_size(text),
        Some(percent) => match percent.parse::<u64>() {
            Ok(percent @ 1..=100) => Ok(host_memory() / 100 * percent),
            _ => Err(format!("\"{text}\" is not a share of the host's memory; use 1% to 100%")),
        },
    }
}

/// A MAC address, `aa:bb:cc:dd:ee:ff`, unicast.
pub fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let complaint = || format!("\"{text}\" is not a unicast MAC address such as 00:16:3e:12:34:56");
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2).ok_or_else(complaint)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| complaint())?;
    }
    if parts.next().is_some() || mac[0] & 1 == 1 { Err(complaint()) } else { Ok(mac) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates() {
        assert_eq!(parse_bits("1000"), Ok(1000));
        assert_eq!(parse_bits("8bit"), Ok(8));
        assert_eq!(parse_bits("10kbit"), Ok(10_000));
        assert_eq!(parse_bits("10Mbit"), Ok(10_000_000));
        assert_eq!(parse_bits("1Gibit"), Ok(1 << 30));
        for wrong in ["", "bit", "Mbit", "10MB", "10Bbit", "10bbit", "-1bit", "1.5Gbit", "10mbit", "10 Mbit"] {
            assert!(parse_bits(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpu_sets() {
        assert_eq!(parse_cpu_set("0-2,5"), Ok(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpu_set("5,5,4-5"), Ok(vec![4, 5]));
        for wrong in ["", "a", "3-1", "0-4294967295", "1,"] {
            assert!(parse_cpu_set(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn macs() {
        assert_eq!(parse_mac("00:16:3e:aa:BB:01"), Ok([0, 0x16, 0x3e, 0xaa, 0xbb, 1]));
        for wrong in ["", "01:16:3e:aa:bb:cc", "00:16:3e:aa:bb", "00:16:3e:aa:bb:cc:dd", "0:16:3e:aa:bb:cc"] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,24}") {
            let _ = (parse_bool(&text), parse_bits(&text), parse_cpu_set(&text));
            let _ = (parse_memory(&text), parse_mac(&text));
        }
    }
}
