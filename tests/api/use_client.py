"""What a backend would do with the client that is made from the description.

    use_client.py FOLDER URL ADMIN_KEY
"""

import importlib
import pkgutil
import sys
import time

FOLDER, BASE, KEY = sys.argv[1:]
sys.path.insert(0, FOLDER)

import askwhen_client as api  # noqa: E402


def main():
    modules = [module.name for module in pkgutil.walk_packages(api.__path__, "askwhen_client.")]
    for name in modules:
        importlib.import_module(name)
    with api.ApiClient(api.Configuration(host=BASE, access_token=KEY)) as connection:
        surveys, users = api.SurveysApi(connection), api.UsersApi(connection)
        question = {"question_id": "q1", "type": "single_choice", "text": "Which?", "options": ["a", {"value": "b", "text": "B"}]}
        several = {"question_id": "q2", "type": "multi_choice", "text": "And which?", "options": ["c", "d"], "other": {"text": "Another"}}
        survey = {"name": "From Python", "status": "active", "show_on": [{"trigger": "Python"}], "questions": [question, several]}
        survey["frequency"] = {"repeat": "once", "global_cooldown": "ignore"}
        changed = surveys.put_survey("from-python", api.SurveyDefinition.from_dict(survey))
        assert changed.changed, changed
        tried = surveys.put_survey("from-python", api.SurveyDefinition.from_dict(survey), dry_run=True)
        assert tried.valid and not tried.changed, tried
        event = api.Event.from_dict({"user_id": "py", "event_name": "woke", "occurred_at": "2026-03-01T08:00:00Z"})
        said = api.EventsApi(connection).post_events(api.EventOrBatch(event)).actual_instance
        assert said.status == "accepted", said
        decision = users.post_user_trigger("py", "Python", trigger_request=api.TriggerRequest())
        assert decision.reason == "offered" and decision.survey.survey_id == "from-python", decision
        assert [option.actual_instance for option in decision.survey.questions[0].options][0], decision
        chosen = ["c", {"other": "e"}]
        given = [{"question_id": "q1", "value": "b"}, {"question_id": "q2", "value": chosen}]
        answers = api.Answers.from_dict({"answers": given, "completed": True})
        answered = users.post_answers("py", decision.survey.offer_id, answers)
        assert answered.status == "accepted", answered
        until = time.monotonic() + 30
        while not (rows := api.ResponsesApi(connection).get_responses(user_id="py", status="completed").responses):
            assert time.monotonic() < until, "the list of responses stays empty"
            time.sleep(0.1)
        assert [answer.value for answer in rows[0].answers] == ["b", chosen], rows
        results = surveys.get_survey_results("from-python")
        assert results.questions[0].distribution[1].count == 1, results
        try:
            surveys.get_survey("nothing")
        except api.exceptions.NotFoundException as problem:
            assert '"not_found"' in problem.body, problem.body
        else:
            raise AssertionError("a survey that is not there is a problem")
    print(f"client: Python, {len(modules)} modules")


main()
