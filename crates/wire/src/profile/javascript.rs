//! JSON as `JSON.stringify(JSON.parse(text))` gives it back: integer-like keys
//! first and ascending, numbers as ECMAScript prints them. Integers beyond
//! 2^53, which JavaScript would round, become strings.

use serde_json::value::RawValue;
use std::fmt::Write as _;

use askwhen_domain::json::Members;

const MAX_SAFE_INTEGER: u128 = 1 << 53;

/// Rewrites valid JSON.
pub fn restringify(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    write_value(&mut out, text.trim());
    out
}

fn write_value(out: &mut String, text: &str) {
    match text.as_bytes().first() {
        Some(b'{') => write_object(out, text),
        Some(b'[') => {
            let list: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
            out.push('[');
            for (i, entry) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(out, entry.get());
            }
            out.push(']');
        }
        Some(b'"') => {
            let plain: String = serde_json::from_str(text).unwrap_or_default();
            write_string(out, &plain);
        }
        Some(b'-' | b'0'..=b'9') => write_number(out, text),
        _ => out.push_str(text),
    }
}

fn write_object(out: &mut String, text: &str) {
    let members: Members<'_> = serde_json::from_str(text).unwrap_or(Members(Vec::new()));
    let mut indexed: Vec<(u32, usize)> =
        members.0.iter().enumerate().filter_map(|(i, (name, _))| Some((array_index(name)?, i))).collect();
    indexed.sort_unstable();
    let named = members.0.iter().enumerate().filter(|(_, (name, _))| array_index(name).is_none()).map(|(i, _)| i);
    let order: Vec<usize> = indexed.iter().map(|(_, i)| *i).chain(named).collect();
    out.push('{');
    for (n, i) in order.into_iter().enumerate() {
        let (name, value) = &members.0[i];
        if n > 0 {
            out.push(',');
        }
        write_string(out, name);
        out.push(':');
        write_value(out, value.get());
    }
    out.push('}');
}

/// Keys that JavaScript orders as numbers: 0 to 2^32 − 2, spelled plainly.
fn array_index(name: &str) -> Option<u32> {
    let number: u32 = name.parse().ok()?;
    (number != u32::MAX && number.to_string() == name).then_some(number)
}

/// serde_json escapes exactly what JSON.stringify does.
fn write_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a string serialises"));
}

fn write_number(out: &mut String, text: &str) {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        match digits.parse::<u128>() {
            Ok(0) => out.push('0'),
            Ok(number) if number <= MAX_SAFE_INTEGER => out.push_str(text),
            _ => write_string(out, text),
        }
        return;
    }
    let number: f64 = text.parse().unwrap_or(0.0);
    write_float(out, number);
}

/// ECMAScript Number::toString with radix 10, from the shortest digits that
/// read back as the same number.
fn write_float(out: &mut String, number: f64) {
    if number == 0.0 {
        out.push('0');
        return;
    }
    let spelled = format!("{:e}", number.abs());
    let (mantissa, exponent) = spelled.split_once('e').expect("LowerExp prints an exponent");
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let exponent: i32 = exponent.parse().expect("a small number");
    // As in the standard: value = 0.digits × 10^point.
    let point = exponent + 1;
    let count = digits.len() as i32;
    if number < 0.0 {
        out.push('-');
    }
    if count <= point && point <= 21 {
        out.push_str(&digits);
        out.extend(std::iter::repeat_n('0', (point - count) as usize));
    } else if 0 < point && point <= 21 {
        let (whole, fraction) = digits.split_at(point as usize);
        let _ = write!(out, "{whole}.{fraction}");
    } else if -6 < point && point <= 0 {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', -point as usize));
        out.push_str(&digits);
    } else {
        let (first, rest) = digits.split_at(1);
        out.push_str(first);
        if !rest.is_empty() {
            let _ = write!(out, ".{rest}");
        }
        let _ = write!(out, "e{}{}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_javascript_prints() {
        for (given, printed) in [
            (
                "{\"b\":1,\"10\":2,\"2\":3,\"a\":{\"1\":0,\"0\":1}, \"01\": 4}",
                "{\"2\":3,\"10\":2,\"b\":1,\"a\":{\"0\":1,\"1\":0},\"01\":4}",
            ),
            ("[1.0, 1e2, 1E21, 1e-7, 0.000001, -0, -0.0, 1.50]", "[1,100,1e+21,1e-7,0.000001,0,0,1.5]"),
            (
                "[9007199254740992, 9007199254740993, -9007199254740993]",
                "[9007199254740992,\"9007199254740993\",\"-9007199254740993\"]",
            ),
            ("[123456789012345680000, 1.2e-10, 12345.678]", "[\"123456789012345680000\",1.2e-10,12345.678]"),
            ("\"\\u00e9\\u0001\\/\\n\\u2028\"", "\"é\\u0001/\\n\u{2028}\""),
            ("[true,false,null,{},[]]", "[true,false,null,{},[]]"),
        ] {
            assert_eq!(restringify(given), printed);
            assert_eq!(restringify(printed), printed, "stable");
        }
    }
}
