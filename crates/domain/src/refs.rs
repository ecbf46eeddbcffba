//! Names of what belongs to a project: the project's name and an id within it.

/// A user of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserRef<'a> {
    pub project: &'a str,
    pub user_id: &'a str,
}

impl<'a> UserRef<'a> {
    pub fn new(project: &'a str, user_id: &'a str) -> UserRef<'a> {
        UserRef { project, user_id }
    }
}

/// An owned [`UserRef`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey {
    pub project: String,
    pub user_id: String,
}

impl From<UserRef<'_>> for UserKey {
    fn from(user: UserRef<'_>) -> UserKey {
        UserKey { project: user.project.to_owned(), user_id: user.user_id.to_owned() }
    }
}

/// A survey of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SurveyRef<'a> {
    pub project: &'a str,
    pub survey_id: &'a str,
}

impl<'a> SurveyRef<'a> {
    pub fn new(project: &'a str, survey_id: &'a str) -> SurveyRef<'a> {
        SurveyRef { project, survey_id }
    }
}

/// An owned [`SurveyRef`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SurveyKey {
    pub project: String,
    pub survey_id: String,
}

impl SurveyKey {
    pub fn new(project: impl Into<String>, survey_id: impl Into<String>) -> SurveyKey {
        SurveyKey { project: project.into(), survey_id: survey_id.into() }
    }

    pub fn as_ref(&self) -> SurveyRef<'_> {
        SurveyRef { project: &self.project, survey_id: &self.survey_id }
    }
}

impl From<SurveyRef<'_>> for SurveyKey {
    fn from(survey: SurveyRef<'_>) -> SurveyKey {
        SurveyKey::new(survey.project, survey.survey_id)
    }
}

/// An endpoint of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointRef<'a> {
    pub project: &'a str,
    pub endpoint_id: &'a str,
}

impl<'a> EndpointRef<'a> {
    pub fn new(project: &'a str, endpoint_id: &'a str) -> EndpointRef<'a> {
        EndpointRef { project, endpoint_id }
    }
}
