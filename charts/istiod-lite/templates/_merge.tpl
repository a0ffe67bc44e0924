{{/* `pilot.X` is `X`, and wins: called once by each template, before it reads a value. */}}
{{- define "istiod-lite.merge" -}}
{{- if .Values.pilot }}
{{- $_ := mustMergeOverwrite .Values (omit .Values.pilot "enabled") }}
{{- end }}
{{- end }}
