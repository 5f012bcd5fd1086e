//! Values as upstream's reader takes them.

/// A truth value as Go's `strconv.ParseBool` takes it: `1 t T TRUE true True 0 f F FALSE false False`.
pub fn go_bool(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        "" => Err("is empty".to_owned()),
        _ => Err("is neither true nor false".to_owned()),
    }
}

pub(super) fn port(value: &str) -> Result<u16, String> {
    match value.parse::<u16>() {
        Ok(0) => Err("0 is not a port that others can find".to_owned()),
        Ok(port) => Ok(port),
        Err(_) if value.is_empty() => Err("is empty".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
