//! The word that may have been meant, for messages about one that is not known.

/// The known word that is nearest to `word`, if one is near.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Half of a short word is another word.
    let near = |distance: usize| distance <= 3 && distance * 2 < word.chars().count().max(2);
    // As others spell it: idle_timeout, Idle-Timeout, interfaces.
    let spell = |word: &str| word.replace('_', "-").to_lowercase();
    let spelt = spell(word);
    known
        .into_iter()
        .map(|one| (strsim::damerau_levenshtein(&spelt, &spell(one)), one))
        .min()
        .filter(|(distance, _)| near(*distance))
        .map(|(_, one)| one)
}
