#!/usr/bin/env bash
# Creates a Cloud Scheduler job that launches the Flex Template every night at 02:30 UTC, to
# annotate the files of the day. Needs PROJECT, REGION, BUCKET and IMAGE as in README.md, and
# ACCOUNT, a service account that may launch Dataflow jobs.
# {date} is the current day in UTC at launch. After a failed night, launch the template with
# date=YYYY-MM-DD: the run resumes.
set -euo pipefail

body=$(cat <<JSON
{"launchParameter": {
  "jobName": "spanmill-nightly",
  "containerSpecGcsPath": "$BUCKET/templates/spanmill.json",
  "parameters": {
    "stage": "annotate",
    "input": "$BUCKET/in/date={date}/*.parquet",
    "output": "$BUCKET/out/date={date}",
    "number_of_worker_harness_threads": "2"
  },
  "environment": {
    "machineType": "n2-standard-8",
    "maxWorkers": 50,
    "diskSizeGb": 50,
    "sdkContainerImage": "$IMAGE",
    "additionalExperiments": ["no_use_multiple_sdk_containers"]
  }
}}
JSON
)
location="https://dataflow.googleapis.com/v1b3/projects/$PROJECT/locations/$REGION"
# A job that exists gets the new image and parameters.
verb=create headers=--headers
if gcloud scheduler jobs describe spanmill-nightly --project="$PROJECT" --location="$REGION" \
    >/dev/null 2>&1; then
    verb=update headers=--update-headers
fi
gcloud scheduler jobs "$verb" http spanmill-nightly --project="$PROJECT" --location="$REGION" \
    --schedule='30 2 * * *' --time-zone=UTC --http-method=POST \
    --uri="$location/flexTemplates:launch" \
    --oauth-service-account-email="$ACCOUNT" "$headers=Content-Type=application/json" \
    --message-body="$body"
