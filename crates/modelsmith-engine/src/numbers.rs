//! Numbers as people read them.

/// A count with its thousands apart: `12 345 678`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Bytes in decimal units: `812 B`, `4.2 MB`, `3.1 GB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if value < 1000 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1000.0;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(scaled < 99.95);
    format!("{scaled:.digits$} {}", UNITS[unit])
}

/// A duration: `0.42 s`, `12 s`, `3m 05s`, `2h 07m`.
pub fn seconds(value: f64) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    if value < 9.95 {
        return format!("{value:.2} s");
    }
    let whole = value.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
    }
}

/// A moment in seconds since 1970 as `2026-03-01 14:05 UTC`.
pub fn date(unix: u64) -> String {
    let (day, second) = (unix / 86_400, unix % 86_400);
    // Days are counted from the first of March of year 0, so that a leap day ends a year.
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (
        of_year - (153 * month + 2) / 5 + 1,
        if month < 10 { month + 3 } else { month - 9 },
    );
    let year = year + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        second / 3600,
        second % 3600 / 60
    )
}

/// A number with four significant digits, in scientific form where it is tiny or huge.
pub fn decimal(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    if !(1e-3..1e6).contains(&size) {
        return format!("{value:.3e}");
    }
    let before = size.log10().floor() as i32;
    let digits = (3 - before).clamp(0, 6) as usize;
    format!("{value:.digits$}")
}

/// A part of a whole in percent; `0` of nothing.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    let percent = part as f64 / whole as f64 * 100.0;
    let digits = if percent >= 10.0 { 1 } else { 2 };
    format!("{percent:.digits$} %")
}

/// A shape: `80 x 16`.
pub fn shape(sizes: &[usize]) -> String {
    let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
    sizes.join(" x ")
}

/// A curve in one line of at most `width` blocks; each block is the mean of its stretch.
pub fn sparkline(values: &[f32], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if values.is_empty() || width == 0 {
        return String::new();
    }
    let columns = values.len().min(width);
    let means: Vec<f32> = (0..columns)
        .map(|column| {
            let from = column * values.len() / columns;
            let to = ((column + 1) * values.len() / columns).max(from + 1);
            values[from..to].iter().sum::<f32>() / (to - from) as f32
        })
        .collect();
    let low = means.iter().copied().fold(f32::INFINITY, f32::min);
    let high = means.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = (high - low).max(f32::MIN_POSITIVE);
    means
        .iter()
        .map(|mean| BLOCKS[((mean - low) / range * 7.0).round() as usize % 8])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1234567), "1 234 567");
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(4_200_000), "4.2 MB");
        assert_eq!(bytes(999_700_000), "1.0 GB");
        assert_eq!(seconds(0.423), "0.42 s");
        assert_eq!(seconds(185.2), "3m 05s");
        assert_eq!(seconds(7620.0), "2h 07m");
        assert_eq!(decimal(0.0), "0");
        assert_eq!(decimal(3.21987), "3.220");
        assert_eq!(decimal(12345.6), "12346");
        assert_eq!(decimal(0.00002), "2.000e-5");
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_827_696), "2000-02-29 12:34 UTC");
        assert_eq!(date(1_795_507_200), "2026-11-24 08:00 UTC");
        assert_eq!(share(1, 3), "33.3 %");
        assert_eq!(share(1, 0), "0 %");
    }

    #[test]
    fn a_curve_keeps_its_shape_whatever_its_length() {
        assert_eq!(sparkline(&[1.0, 2.0, 3.0], 8), "▁▅█");
        let long: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        assert_eq!(sparkline(&long, 4).chars().count(), 4);
        assert_eq!(sparkline(&[2.0; 5], 5), "▁▁▁▁▁");
    }
}
