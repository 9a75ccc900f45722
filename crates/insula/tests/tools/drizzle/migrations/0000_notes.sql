CREATE TABLE "notes" (
	"id" serial PRIMARY KEY NOT NULL,
	"slug" varchar(40) NOT NULL,
	"body" text DEFAULT '' NOT NULL,
	"written_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "notes_slug_unique" UNIQUE("slug")
);
--> statement-breakpoint
CREATE TABLE "links" (
	"from_id" integer NOT NULL,
	"to_id" integer NOT NULL,
	CONSTRAINT "links_pk" PRIMARY KEY("from_id","to_id")
);
--> statement-breakpoint
ALTER TABLE "links" ADD CONSTRAINT "links_from_id_notes_id_fk" FOREIGN KEY ("from_id") REFERENCES "notes"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "links_to" ON "links" USING btree ("to_id");
